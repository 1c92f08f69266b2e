"""The runtime's own server reflection, where it has it."""

from modelmesh.adapters.channel import CallError
from modelmesh.adapters.runtime.grpc_runtime import runtime_channel
from modelmesh.values.status import Status

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
        self._channel = runtime_channel(target)
        self._absent = False

    async def move(self, target: str) -> None:
        """The runtime is there."""
        before, self._channel, self._absent = self._channel, runtime_channel(target), False
        await before.close()

    async def ask(self, request: bytes) -> bytes | None:
        """The runtime's answer; None if it has no reflection or does not answer."""
        if self._absent:
            return None
        for method in _METHODS:
            try:
                # A stream, of which one message is enough.
                return await self._channel.unary(method, request, timeout_s=TIMEOUT_S)
            except CallError as error:
                if error.status is not Status.UNIMPLEMENTED:
                    return None
        self._absent = True
        return None

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
