"""What most would write: a proxy of every unary method with `grpc.aio`, bytes in, bytes out. A contender."""

import asyncio
import sys

import grpc
import grpc.aio


class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc] # the base class has no types
    """Forwards each call, its metadata and its deadline."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Any method there is."""
        forward = self._channel.unary_unary(call.method)

        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            metadata = context.invocation_metadata()
            return bytes(await forward(request, metadata=metadata, timeout=context.time_remaining()))

        return grpc.unary_unary_rpc_method_handler(handle)


async def main(port: str, target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        server = grpc.aio.server(handlers=[Proxy(channel)])
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()


asyncio.run(main(*sys.argv[1:]))
