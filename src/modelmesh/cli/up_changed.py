"""`modelmesh up --models`: a file that has changed is served under its old name without a failed call.

Its new content is loaded under another id first, for trial. If that works, the copies of the model are unloaded: the next
call loads the new content, and calls wait for it as for any load. If it does not, the loaded copies continue serving.
It is not a vmodel: calls name the model by its id, and a vmodel of the same name would not be asked.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from modelmesh._proto import admin_pb2, model_mesh_pb2
from modelmesh.instance.model_folder import TRIAL, ChangeStep, change_step

if TYPE_CHECKING:
    from modelmesh.cli.client import Client
    from modelmesh.instance.local_cluster import LocalCluster
    from modelmesh.instance.model_folder import FolderModel

Info = model_mesh_pb2.ModelStatusInfo


class ChangedFiles:
    """Files that have changed, and the trials of their new content. It is called about once a second."""

    def __init__(self, cluster: "LocalCluster", client: "Client") -> None:
        self._cluster = cluster
        self._client = client

    def take(self, model: str, file: "FolderModel", *, tried: bool) -> ChangeStep:
        """Go one step on. `tried`: a trial of this very content has begun. Raises grpc.RpcError."""
        trial = self._status(model + TRIAL) if tried else Info()
        step = change_step(self._status(model).status, trial.status if tried else None)
        match step:
            case ChangeStep.TRY:
                trial = self._try(model, file)
                if trial.status == Info.LOADING_FAILED:
                    step = ChangeStep.REFUSE
            case ChangeStep.TAKE:
                unload = admin_pb2.UnloadModelRequest(model_id=model)
                self._client.call("modelmesh.v1.Admin/UnloadModel", unload, admin_pb2.UnloadModelResponse)
                self._ensure(model)
                self._cluster.progress(f"{model} has a new file, which the next calls get")
        if step is ChangeStep.REFUSE:
            why = trial.errors[0] if trial.errors else "it cannot be loaded"
            self._cluster.progress(f"{model} is served from its loaded copies, because its new file cannot be: {why}")
        if step in {ChangeStep.TAKE, ChangeStep.REFUSE, ChangeStep.REGISTER}:
            self.end_trials([model])
        return step

    def end_trials(self, models: Collection[str]) -> None:
        """Unregister what was registered for trial. Raises grpc.RpcError."""
        for model in models:
            request = model_mesh_pb2.UnregisterModelRequest(modelId=model + TRIAL)
            self._client.call("mmesh.ModelMesh/unregisterModel", request, model_mesh_pb2.UnregisterModelResponse)

    def _try(self, model: str, file: "FolderModel") -> Info:
        self.end_trials([model])  # of a content that is older still
        info = model_mesh_pb2.ModelInfo(type=file.type, path=file.path)
        request = model_mesh_pb2.RegisterModelRequest(modelId=model + TRIAL, modelInfo=info)
        self._client.call("mmesh.ModelMesh/registerModel", request, Info)
        return self._ensure(model + TRIAL)

    def _ensure(self, model: str) -> Info:
        return self._client.call(
            "mmesh.ModelMesh/ensureLoaded", model_mesh_pb2.EnsureLoadedRequest(modelId=model), Info
        )

    def _status(self, model: str) -> Info:
        request = model_mesh_pb2.GetStatusRequest(modelId=model)
        return self._client.call("mmesh.ModelMesh/getModelStatus", request, Info)
