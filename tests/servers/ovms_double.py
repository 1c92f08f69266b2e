"""A double of OpenVINO Model Server over the `openvino` package: the same interface, the same library under it.

It keeps to what the server's documentation says of its configuration file, `POST /v1/config/reload`, `GET /v1/config`, and KServe's
gRPC service. What the real one does beyond that (scheduling, batching, dynamic shapes, its own memory) is not here.

    python ovms_double.py --config FILE --rest_port N --port N
"""

import argparse
import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import openvino
from aiohttp import web

from modelmesh._proto import open_inference_pb2 as oip

SERVICE = "inference.GRPCInferenceService"
DATATYPES = {"f32": ("FP32", "<f4"), "f64": ("FP64", "<f8"), "i64": ("INT64", "<i8"), "i32": ("INT32", "<i4")}
SUFFIXES = (".xml", ".onnx")


@dataclass
class Served:
    """A model, and how it is."""

    path: str
    state: str = "LOADING"
    version: str = "1"
    error: str = ""
    compiled: Any = None


@dataclass
class Server:
    """The models of the configuration file."""

    config: Path
    models: dict[str, Served] = field(default_factory=dict)
    core: Any = field(default_factory=openvino.Core)

    async def reload(self, _request: web.Request | None = None) -> web.Response:
        """Read the file again: 201 if something changed, 200 if not, 400 if a model does not load."""
        try:
            listed = json.loads(self.config.read_text())["model_config_list"]
            wanted = {one["config"]["name"]: str(one["config"]["base_path"]) for one in listed}
        except (OSError, ValueError, KeyError, TypeError) as error:
            return web.json_response({"error": f"Configuration file is not valid: {error}"}, status=400)
        changed = False
        for name, served in self.models.items():
            if served.state in {"AVAILABLE", "LOADING"} and wanted.get(name) != served.path:
                served.state, served.compiled, changed = "END", None, True
        failed = False
        for name, path in wanted.items():
            served = self.models.get(name)
            if served is None or served.state != "AVAILABLE":
                self.models[name] = await asyncio.to_thread(self.load, path)
                changed = True
                failed = failed or self.models[name].state != "AVAILABLE"
        if failed:
            return web.json_response({"error": "Reloading models versions failed"}, status=400)
        return web.json_response(self.status(), status=201 if changed else 200)

    def load(self, path: str) -> Served:
        """The highest version of a base path."""
        served = Served(path)
        try:
            versions = [one for one in Path(path).iterdir() if one.name.isdigit()]
            version = max(versions, key=lambda one: int(one.name))
            served.version = version.name
            (file,) = [one for one in version.iterdir() if one.suffix in SUFFIXES]
            served.compiled = self.core.compile_model(self.core.read_model(file), "CPU")
            served.state = "AVAILABLE"
        except (OSError, ValueError, RuntimeError) as error:
            served.error = " ".join(str(error).split())[:300]
        return served

    def status(self) -> dict[str, Any]:
        """As `GET /v1/config` answers."""
        return {
            name: {
                "model_version_status": [
                    {
                        "version": one.version,
                        "state": one.state,
                        "status": {
                            "error_code": "UNKNOWN" if one.error else "OK",
                            "error_message": one.error or "OK",
                        },
                    }
                ]
            }
            for name, one in self.models.items()
        }

    async def tell(self, _request: web.Request) -> web.Response:
        """`GET /v1/config`."""
        return web.json_response(self.status())

    # --- KServe's service ---------------------------------------------------------------------

    async def compiled(self, name: str, context: Any) -> Any:
        served = self.models.get(name)
        if served is None or served.state != "AVAILABLE":
            await context.abort(grpc.StatusCode.NOT_FOUND, "Model with requested name is not found")
        assert served is not None
        return served.compiled

    async def infer(self, request: oip.ModelInferRequest, context: Any) -> oip.ModelInferResponse:
        """An inference with raw contents."""
        compiled = await self.compiled(request.model_name, context)
        kinds = dict(DATATYPES.values())
        feed = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            feed[tensor.name] = np.frombuffer(raw, kinds[tensor.datatype]).reshape(tensor.shape)
        try:
            found = await asyncio.to_thread(lambda: compiled.create_infer_request().infer(feed))
        except RuntimeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, " ".join(str(error).split())[:300])
        answer = oip.ModelInferResponse(model_name=request.model_name)
        for output in compiled.outputs:
            array = np.ascontiguousarray(found[output])
            datatype = DATATYPES[output.get_element_type().get_type_name()][0]
            answer.outputs.add(name=output.get_any_name(), datatype=datatype, shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer

    async def metadata(self, request: oip.ModelMetadataRequest, context: Any) -> oip.ModelMetadataResponse:
        """Names, types and shapes."""
        compiled = await self.compiled(request.name, context)
        answer = oip.ModelMetadataResponse(name=request.name, platform="OpenVINO")
        for tensors, into in ((compiled.inputs, answer.inputs), (compiled.outputs, answer.outputs)):
            for one in tensors:
                shape = [-1 if size.is_dynamic else size.get_length() for size in one.get_partial_shape()]
                datatype = DATATYPES[one.get_element_type().get_type_name()][0]
                into.add(name=one.get_any_name(), datatype=datatype, shape=shape)
        return answer

    async def ready(self, request: oip.ModelReadyRequest, context: Any) -> oip.ModelReadyResponse:
        """Whether a model is available."""
        served = self.models.get(request.name)
        if served is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "Model with requested name is not found")
        assert served is not None
        return oip.ModelReadyResponse(ready=served.state == "AVAILABLE")


async def main(arguments: argparse.Namespace) -> None:
    """Serve until killed."""
    server = Server(arguments.config)
    await server.reload()
    calls = {
        "ModelInfer": (server.infer, oip.ModelInferRequest),
        "ModelMetadata": (server.metadata, oip.ModelMetadataRequest),
        "ModelReady": (server.ready, oip.ModelReadyRequest),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for name, (call, request) in calls.items()
    }
    grpc_server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    grpc_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    grpc_server.add_insecure_port(f"127.0.0.1:{arguments.port}")
    await grpc_server.start()
    application = web.Application()
    application.router.add_post("/v1/config/reload", server.reload)
    application.router.add_get("/v1/config", server.tell)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", arguments.rest_port).start()
    await grpc_server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rest_port", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(main(parser.parse_args()))
