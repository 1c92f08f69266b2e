"""The calls of the Open Inference Protocol that are about a server and no model: is it live, is it ready, what is it?

The mesh answers them itself. A client sees one server, which is the mesh; which of many runtimes would answer would
be chance, and one that restarts would make the whole look down although its models are served elsewhere. They need no
model id, and no configuration has to allow them.
"""

from collections.abc import Callable, Mapping

from modelmesh import __version__
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.management.calls import Call, Method

SERVICE = "inference.GRPCInferenceService"
NAME = "modelmesh"
EXTENSIONS = ("model_repository", "model_repository(unload_dependents)")
"""As Triton names them: the index, loads and unloads; the option of unloads for dependents has no effect, as there are none."""


class Server:
    """Handlers of the methods.

    Args:
        ready: Whether this instance takes calls, as `/ready` answers.
    """

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {
            f"{SERVICE}/ServerLive": Method(pb.ServerLiveRequest, self.live),
            f"{SERVICE}/ServerReady": Method(pb.ServerReadyRequest, self.ready),
            f"{SERVICE}/ServerMetadata": Method(pb.ServerMetadataRequest, self.metadata),
        }

    async def live(self, _: Call, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """An instance that answers is alive."""
        del request
        return pb.ServerLiveResponse(live=True)

    async def ready(self, _: Call, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Whether inference calls may be sent here."""
        del request
        return pb.ServerReadyResponse(ready=self._ready())

    async def metadata(self, _: Call, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """The mesh, its version, and the extensions of the protocol that the mesh itself has."""
        del request
        return pb.ServerMetadataResponse(name=NAME, version=__version__, extensions=EXTENSIONS)
