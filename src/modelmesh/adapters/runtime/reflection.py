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
        # Over a unix socket the path would become the authority, which strict servers refuse.
        options = [("grpc.enable_retries", 0), ("grpc.default_authority", "localhost")]
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self._absent = False

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
