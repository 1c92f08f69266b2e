"""For authors of Python runtimes: derive from `ModelRuntime`, call `run`.

Here is what a model server in Python needs to run beside a ModelMesh instance, and the built-in server for
scikit-learn and ONNX files (`modelmesh.runtime.files`). Nothing here knows the mesh's control plane. Read first:
`contract` (what an author writes), then `loaded` (what happens to it), then `server`.

    class Echo(ModelRuntime[str]):
        def load(self, source: ModelSource) -> str:
            return Path(source.path).read_text()

        def services(self):
            return [ModelService(echo_pb2.DESCRIPTOR.services_by_name["Echo"], {"Say": self.say})]

        def say(self, model: str, request: SayRequest) -> SayReply:
            return SayReply(text=model.format(request.name))

    run(Echo(), listen="8085")
"""

from modelmesh.runtime.contract import Batching, ModelRuntime, ModelService, ModelSignature, ModelSource, TensorSpec
from modelmesh.runtime.errors import CapacityError, LoadError, ModelNotLoadedError, RequestError, RuntimeFault
from modelmesh.runtime.loaded import LoadedModels
from modelmesh.runtime.server import RuntimeServer, run, serve

__all__ = [
    "Batching",
    "CapacityError",
    "LoadError",
    "LoadedModels",
    "ModelNotLoadedError",
    "ModelRuntime",
    "ModelService",
    "ModelSignature",
    "ModelSource",
    "RequestError",
    "RuntimeFault",
    "RuntimeServer",
    "TensorSpec",
    "run",
    "serve",
]
