"""The runtime's own server reflection, where it has it."""

import grpc.aio

TIMEOUT_S = 2.0
_METHODS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


class RuntimeReflection:
    """Passes reflection requests on, encoded as they are.

    Args:
        target: The runtime's inference endpoint.
    """

    def __init__(self, target: str) -> None:
        self._channel = _channel(target)
        self._absent = False

    async def move(self, target: str) -> None:
        """The runtime is there."""
        before, self._channel, self._absent = self._channel, _channel(target), False
        await before.close(None)

    async def ask(self, request: bytes) -> bytes | None:
        """The runtime's answer; None if it has no reflection or does not answer."""
        if self._absent:
            return None
        for method in _METHODS:
            call = self._channel.stream_stream(method, request_serializer=bytes, response_deserializer=bytes)(
                iter([request]), timeout=TIMEOUT_S
            )
            try:
                async for answer in call:
                    call.cancel()
                    return bytes(answer)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    return None
        self._absent = True
        return None

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)


def _channel(target: str) -> grpc.aio.Channel:
    # Over a unix socket the path would become the authority, which strict servers refuse.
    options = [("grpc.enable_retries", 0), ("grpc.default_authority", "localhost")]
    return grpc.aio.insecure_channel(target, options=options)
