"""A gRPC server that answers what a test says, and notes what it was asked."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import Message

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh._proto import rpc_status_pb2 as rpc

Answer = Message | Callable[[bytes, grpc.ServicerContext], Message]
Stream = Iterable[Answer]
"""Answers of one call; what is no message ends it."""


class ScriptedServer(grpc.GenericRpcHandler):
    """Answers of a method are given in turn, the last one for ever."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.streams: dict[str, list[Stream]] = {}
        self.ended = threading.Event()
        self.requests: dict[str, list[bytes]] = defaultdict(list)
        self.headers: list[dict[str, Any]] = []
        self.seconds_left: list[float] = []
        self._pool = ThreadPoolExecutor(4)
        self._server = grpc.server(self._pool, [self], options=[("grpc.max_send_message_length", -1)])
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def stop(self) -> None:
        self._server.stop(0).wait(10)
        self._pool.shutdown()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        name = details.method.rpartition("/")[2]
        if name in self.streams:
            return self._streaming(name)

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.requests[name].append(request)
            self.headers.append({one.key: one.value for one in context.invocation_metadata()})
            self.seconds_left.append(context.time_remaining())
            answers = self.answers[name]
            chosen = answers.pop(0) if len(answers) > 1 else answers[0]
            message = chosen if isinstance(chosen, Message) else chosen(request, context)
            return message.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)

    def _streaming(self, name: str) -> grpc.RpcMethodHandler:
        def answers(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            self.requests[name].append(b"".join(requests))
            self.headers.append({one.key: one.value for one in context.invocation_metadata()})
            context.add_callback(self.ended.set)
            for one in self.streams[name].pop(0):
                if isinstance(one, Message):
                    yield one.SerializeToString()
                else:
                    one(b"", context)

        return grpc.stream_stream_rpc_method_handler(answers)


def failure(code: grpc.StatusCode, message: str = "no", details: bytes | None = None) -> Answer:
    """An answer that is an error."""

    def fail(_: bytes, context: grpc.ServicerContext) -> Message:
        if details is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(code, message)

    return fail


def come_back(after_ms: int) -> bytes:
    """Error details that say when to come back."""
    delay = rpc.Duration(seconds=after_ms // 1000, nanos=after_ms % 1000 * 1_000_000)
    info = rpc.RetryInfo(retry_delay=delay).SerializeToString()
    detail = rpc.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=info)
    return rpc.Status(code=14, message="busy", details=[detail]).SerializeToString()


def echo(request: bytes, _: grpc.ServicerContext) -> Message:
    """The inputs as outputs, as they came."""
    asked = pb.ModelInferRequest.FromString(request)
    answer = pb.ModelInferResponse(model_name=asked.model_name, raw_output_contents=asked.raw_input_contents)
    for one in asked.inputs:
        answer.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
    return answer
