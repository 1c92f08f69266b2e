"""`modelmesh up --models`: the model files of a folder, or nothing yet."""

import asyncio
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modelmesh.cli.greeting import greet
from modelmesh.cli.text import say

if TYPE_CHECKING:
    from modelmesh.instance.local_cluster import LocalCluster
    from modelmesh.instance.model_folder import FolderModel, Found


class FolderSource:
    """What `up` serves when it is given a folder: new files are registered, changed ones loaded again, those that went unregistered.

    Args:
        models: The folder; None: there is none, and nothing is registered.
        registration: Options with which a first model may be registered, for the greeting.

    Raises:
        typer.BadParameter: Two files would be one model.
    """

    def __init__(self, models: Path | None, registration: str = "--type onnx --path /path/to/model.onnx") -> None:
        from modelmesh.instance.model_folder import Found

        found = Found() if models is None else _read(models)
        self._models = models
        self._registration = registration
        self._registered = found.models
        self._stamps = found.stamps
        self._settling: dict[str, tuple[int, int]] = {}
        self._tried: dict[str, tuple[int, int]] = {}
        self._last_text = ""

    async def start(self, cluster: "LocalCluster") -> None:
        """Start, and register what is in the folder."""
        await cluster.start()
        if self._models is not None:
            count = f"{len(self._registered)} {'model' if len(self._registered) == 1 else 'models'}"
            cluster.progress(f"registering {count} of {self._models} …")
            await asyncio.to_thread(_end_trials, cluster)
            await asyncio.to_thread(_register, cluster, self._registered)

    def explain(self, cluster: "LocalCluster") -> None:
        """Where everything is, and how to call it."""
        model = next(iter(self._registered), "my-model")
        commands = [f"modelmesh models load {shlex.quote(model)}", "modelmesh models list"]
        if self._models is not None and not self._registered:
            file = f"{shlex.quote(str(self._models))}/my-model.onnx"
            commands.insert(0, f"cp model.onnx {file}    # registered as my-model within seconds")
        elif not self._registered:
            commands.insert(0, f"modelmesh models register my-model {self._registration}")
        greet(cluster, commands, header="mm-model-id", name=model)

    def look(self, cluster: "LocalCluster") -> None:
        """Bring the registrations in line with the folder; what prevents it is printed once."""
        import grpc

        from modelmesh.instance.model_folder import AmbiguousFilesError, read_folder

        if self._models is None:
            return
        try:
            found = read_folder(self._models)
        except (AmbiguousFilesError, OSError) as error:
            self._say(cluster, str(error))
            return
        settled = {model for model, stamp in found.stamps.items() if self._settling.get(model, stamp) == stamp}
        self._settling = found.stamps
        changed = {model for model in settled if self._stamps.get(model, found.stamps[model]) != found.stamps[model]}
        given_up = self._tried.keys() - found.models.keys()
        # A file that is still being written is taken when it has stayed the same for a look.
        wanted = {model: file for model, file in found.models.items() if model in self._registered or model in settled}
        if wanted == self._registered and not changed and not given_up:
            return
        same = {model for model in changed if wanted[model] == self._registered.get(model)}
        try:
            again = self._follow(cluster, {model: (wanted[model], found.stamps[model]) for model in same}, given_up)
            _register(cluster, wanted, again)
        except (grpc.RpcError, typer.Exit) as error:
            self._say(cluster, f"the folder is looked at again: {error}")
            return
        for model in sorted(wanted.keys() - self._registered.keys()):
            cluster.progress(f"registered {model}")
        for model in sorted(again):
            cluster.progress(f"registered {model} again: its file has changed")
        self._registered = wanted
        self._stamps = {model: self._stamps[model] if model in self._tried else found.stamps[model] for model in wanted}

    def _follow(
        self,
        cluster: "LocalCluster",
        changed: "Mapping[str, tuple[FolderModel, tuple[int, int]]]",
        given_up: Collection[str],
    ) -> set[str]:
        """Go on with files that have another content; returns the models that must be registered again."""
        from modelmesh.cli.client import connect
        from modelmesh.cli.up_changed import ChangedFiles
        from modelmesh.instance.model_folder import ChangeStep

        again = set()
        with connect(cluster.instances[0].endpoint) as client:
            files = ChangedFiles(cluster, client)
            files.end_trials(given_up)
            for model in given_up:
                del self._tried[model]
            for model, (file, stamp) in changed.items():
                step = files.take(model, file, tried=self._tried.get(model) == stamp)
                if step in {ChangeStep.TRY, ChangeStep.WAIT}:
                    self._tried[model] = stamp
                else:
                    self._tried.pop(model, None)
                if step is ChangeStep.REGISTER:
                    again.add(model)
        return again

    def _say(self, cluster: "LocalCluster", text: str) -> None:
        if text != self._last_text:
            self._last_text = text
            cluster.progress(text)


def _read(folder: Path) -> "Found":
    from modelmesh.instance.model_folder import TYPES, AmbiguousFilesError, read_folder

    try:
        found = read_folder(folder)
    except AmbiguousFilesError as error:
        raise typer.BadParameter(str(error), param_hint="--models") from error
    for file in found.passed_over:
        say(f"passed over {file}", error=True)
    if not found.models:
        say(f"{folder} holds no model files ({', '.join(TYPES)})", error=True)
    return found


def _end_trials(cluster: "LocalCluster") -> None:
    """Unregister what an earlier run had registered for trial."""
    from modelmesh.cli.client import connect
    from modelmesh.cli.up_changed import ChangedFiles
    from modelmesh.instance.model_folder import TRIAL

    with connect(cluster.instances[0].endpoint) as client:
        left = [model.id.removesuffix(TRIAL) for model in client.models()[0] if model.id.endswith(TRIAL)]
        ChangedFiles(cluster, client).end_trials(left)


def _register(
    cluster: "LocalCluster", files: "Mapping[str, FolderModel]", changed: "Collection[str]" = frozenset()
) -> None:
    """Bring what is registered in line with what is in the folder; what prevents it is printed, and the rest continues.

    `changed`: models whose files have another content than when they were registered.
    """
    import grpc

    from modelmesh._proto import model_mesh_pb2 as pb
    from modelmesh.cli.client import connect
    from modelmesh.instance.model_folder import Change, FolderModel, changes

    with connect(cluster.instances[0].endpoint) as client:
        listed, _ = client.models()
        registered = {model.id: FolderModel(model.type, model.path) for model in listed}
        remembered = cluster.state.registered()
        ours = {model: file for model, file in registered.items() if file in (remembered.get(model), files.get(model))}
        steps = changes(files, remembered, registered)
        steps |= {model: Change.REPLACE for model in changed if model in ours and model not in steps}
        for model, change in steps.items():
            try:
                if change is not Change.REGISTER:
                    request = pb.UnregisterModelRequest(modelId=model)
                    client.call("mmesh.ModelMesh/unregisterModel", request, pb.UnregisterModelResponse)
                    gone = ours.pop(model)
                    if change is Change.UNREGISTER:
                        cluster.progress(f"unregistered {model}: {gone.path} is not there any more")
                if change is not Change.UNREGISTER:
                    info = pb.ModelInfo(type=files[model].type, path=files[model].path)
                    register = pb.RegisterModelRequest(modelId=model, modelInfo=info)
                    client.call("mmesh.ModelMesh/registerModel", register, pb.ModelStatusInfo)
                    ours[model] = files[model]
            except grpc.RpcError as error:
                if error.code() not in {grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION}:
                    client.doing = f"registering {model}"
                    raise
                cluster.progress(
                    f"{model} stays as it is registered, for {registered[model].path or 'no file'}: {error.details()};"
                    f" `modelmesh models unregister` and a new start would change that"
                )
    cluster.state.remember(ours)
