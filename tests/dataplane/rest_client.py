"""A client of REST for tests, and a runtime that answers what it is asked."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import grpc
from scripted import WAIT, Instance

from modelmesh._proto import model_mesh_pb2 as mesh_pb
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.values.dataplane import Called, CallMessage, DataPlaneEvent, Fail, Missed, Resolution, Rules
from modelmesh.values.status import Status

Infos = dict[str, Any]

X: Infos = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [[1, 2.5, -3]]}


class Rest:
    """A client of one instance, whose brain answers management calls from `models` and `vmodels`."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.models: dict[str, mesh_pb.ModelStatusInfo] = {}
        self.vmodels: dict[str, mesh_pb.VModelStatusInfo] = {}
        self.asked: list[str] = []
        self.session = aiohttp.ClientSession(
            f"http://127.0.0.1:{instance.plane.rest_port}",
            timeout=aiohttp.ClientTimeout(WAIT),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
        )
        self._calls: dict[int, str] = {}
        instance.brain.decide = self._decide
        instance.plane.set_rules(Rules(serving_services=("mmesh.ModelMesh",), peer_services=()))

    def _decide(self, event: DataPlaneEvent) -> Resolution | None:
        if isinstance(event, Missed):
            return Fail(Status.NOT_FOUND, f"model {event.model} is not registered")
        if isinstance(event, Called):
            self._calls[event.token] = event.method.rpartition("/")[2]
        if isinstance(event, CallMessage) and event.message is not None:
            method = self._calls.pop(event.token)
            self.asked.append(method)
            if method == "getModelStatus":
                name = mesh_pb.GetStatusRequest.FromString(event.message).modelId
                answer = self.models.get(name, mesh_pb.ModelStatusInfo()).SerializeToString()
            else:
                name = mesh_pb.GetVModelStatusRequest.FromString(event.message).vModelId
                answer = self.vmodels.get(name, mesh_pb.VModelStatusInfo()).SerializeToString()
            self.instance.plane.reply(event.token, answer, last=True)
        return None

    async def ask(self, method: str, path: str, **request: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, JSON and the rest of an answer; a body that is not JSON is bytes."""
        async with self.session.request(method, path, **request) as answer:
            body = await answer.read()
            return answer.status, json.loads(body) if body and _is_json(answer) else body, answer

    async def infer(self, name: str = "m", *inputs: Infos, **more: Any) -> tuple[int, Any]:
        status, body, _ = await self.ask(
            "POST", f"/v2/models/{name}/infer", json={"inputs": list(inputs or [X]), **more}
        )
        return status, body


def _is_json(answer: aiohttp.ClientResponse) -> bool:
    plain = "Content-Encoding" not in answer.headers and "Inference-Header-Content-Length" not in answer.headers
    return plain and answer.headers.get("Content-Type") == "application/json"


async def mirror(requests: AsyncIterator[bytes], _: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    """The inputs come back as outputs."""
    async for message in requests:
        request = pb.ModelInferRequest.FromString(message)
        answer = pb.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version, id=request.id
        )
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            answer.raw_output_contents.append(raw)
        yield answer.SerializeToString()


def noting(requests: list[pb.ModelInferRequest]) -> Callable[..., AsyncIterator[bytes]]:
    """As `mirror`, and what reaches the runtime is added to `requests`."""

    async def note(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async def noted() -> AsyncIterator[bytes]:
            async for message in messages:
                requests.append(pb.ModelInferRequest.FromString(message))
                yield message

        async for answer in mirror(noted(), context):
            yield answer

    return note
