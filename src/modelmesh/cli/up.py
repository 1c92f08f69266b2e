"""`modelmesh up`: everything on one machine, with one command."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from modelmesh.cli.text import console, printable, say

if TYPE_CHECKING:
    from rich.table import Table

    from modelmesh.instance.local_cluster import LocalCluster
    from modelmesh.instance.model_folder import FolderModel

FIRST_PORT = 8033
REFRESH_S = 1.0
PATIENCE_S = 2.0
"""A stop that takes longer says what it waits for."""
FIRST_CALL = "inference.GRPCInferenceService/ModelMetadata"
"""Tells a model's inputs and outputs; an empty message will do."""


def up(
    instances: Annotated[int, typer.Option("--instances", "-n", min=1, max=32, help="How many instances.")] = 1,
    models: Annotated[
        Path | None,
        typer.Option(
            "--models",
            help="Folder of model files (.joblib, .pkl, .pickle, .onnx); each is registered. Only files of this folder"
            " can be loaded if their format can run code.",
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65000, help="First serving port; 0: any free ports.")
    ] = FIRST_PORT,
    capacity: Annotated[str, typer.Option("--capacity", help="Memory for models of each instance.")] = "1GiB",
    default_size: Annotated[
        str | None, typer.Option("--default-size", help="Size of a model nobody knows. Default: a tenth of --capacity.")
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            "--trust",
            metavar="PATTERN",
            help="Locations, beside --models, whose files may run code when they are loaded, like s3://bucket/folder/*;"
            " again for more.",
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder that keeps registrations. Default: nothing is kept.")
    ] = None,
    manifests: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            "-f",
            help="File or folder of manifests (ServingRuntime, InferenceService, Predictor), instead of --models: their"
            " runtimes are started, `replicas` instances each or -n, and their models served, and followed when the files"
            " change. Models on this machine must lie below the manifests.",
            exists=True,
        ),
    ] = None,
    storage_config: Annotated[
        Path | None,
        typer.Option(
            "--storage-config",
            help="Folder of storage configurations (JSON), one file for each storage key that manifests name.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Run N instances with the built-in Python runtime on this machine, or those of manifests, until Ctrl-C. Loopback only."""
    from modelmesh.cli.sizes import parse_size

    try:
        capacity_bytes = parse_size(capacity)
        default_bytes = parse_size(default_size) if default_size else capacity_bytes // 10
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if models is not None and not models.is_dir():
        raise typer.BadParameter(f"{models} is not a folder", param_hint="--models")
    if manifests:
        if models is not None:
            raise typer.BadParameter("say --models or --file, not both", param_hint="--file")
        raise typer.Exit(
            _run_manifests(manifests, storage_config, instances, port, capacity_bytes, default_bytes, state)
        )
    files = _model_files(models) if models is not None else {}
    cluster = _cluster(instances, models, port, capacity_bytes, default_bytes, state, trust or [])
    raise typer.Exit(asyncio.run(_run(cluster, _FolderSource(models, files))))


def _run_manifests(
    manifests: list[Path],
    storage_config: Path | None,
    instances: int,
    port: int,
    capacity_bytes: int,
    default_bytes: int,
    state: Path | None,
) -> int:
    from modelmesh.cli.up_manifests import ManifestSource
    from modelmesh.instance.local_runtimes import Limits, LocalRuntimeError

    try:
        source = ManifestSource(manifests, storage_config)
        cluster = source.cluster(instances, port, Limits(capacity_bytes, default_bytes), state)
        return asyncio.run(_run(cluster, source))
    except LocalRuntimeError as error:
        say(f"modelmesh up: {error}", error=True)
        return 1


def _model_files(folder: Path) -> "dict[str, FolderModel]":
    from modelmesh.instance.model_folder import TYPES, AmbiguousFilesError, read_folder

    try:
        found = read_folder(folder)
    except AmbiguousFilesError as error:
        raise typer.BadParameter(str(error), param_hint="--models") from error
    for file in found.passed_over:
        say(f"passed over {file}", error=True)
    if not found.models:
        say(f"{folder} holds no model files ({', '.join(TYPES)})", error=True)
    return found.models


def _cluster(
    count: int,
    models: Path | None,
    port: int,
    capacity_bytes: int,
    default_bytes: int,
    state: Path | None,
    trust: list[str],
) -> "LocalCluster":
    from modelmesh.instance.local_cluster import LocalCluster
    from modelmesh.storage import storage_variables

    def runtime(_: int, listen: str) -> list[str]:
        command = [sys.executable, "-m", "modelmesh.cli", "runtime", "--listen", listen]
        command += ["--capacity", str(capacity_bytes), "--default-size", str(default_bytes)]
        command += [word for pattern in trust for word in ("--trust", pattern)]
        return command + (["--models", str(models.absolute())] if models is not None else [])

    return LocalCluster(
        count,
        runtime,
        runtime_environment=lambda _: {name: os.environ[name] for name in storage_variables(os.environ)},
        first_port=port,
        folder=state,
        progress=lambda text: say(f"{text} …", error=True),
    )


class Source(Protocol):
    """What is served: where its models come from."""

    async def start(self, cluster: "LocalCluster") -> None:
        """Start the cluster, and register the models."""
        ...

    def explain(self, cluster: "LocalCluster") -> None:
        """Say where everything is, and how to call it."""
        ...

    def look(self, cluster: "LocalCluster") -> None:
        """Follow what has changed since."""
        ...


async def _run(cluster: "LocalCluster", source: Source) -> int:
    from modelmesh.instance.local_cluster import ClusterStartError
    from modelmesh.instance.local_etcd import LocalEtcdError
    from modelmesh.instance.processes import ChildEndedError
    from modelmesh.instance.state_folder import StateFolderError

    os.umask(0o077)  # registrations, logs and sockets are for this user alone, those of the children too
    stop, at_once = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        (at_once if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    failed = True
    try:
        starting = asyncio.ensure_future(source.start(cluster))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            failed = False
            return 0
        starting.result()
        source.explain(cluster)
        await _watch(cluster, stop, source)
        failed = False
    except (ChildEndedError, ClusterStartError, LocalEtcdError, StateFolderError, OSError) as error:
        typer.echo(f"modelmesh up: {error}", err=True)
        return 1
    finally:
        cluster.progress = lambda text: say(text, error=True)
        await _stop(cluster, at_once, keep_logs=failed)
    return 0


async def _stop(cluster: "LocalCluster", at_once: asyncio.Event, *, keep_logs: bool) -> None:
    """Let what runs end; say what is waited for, and end it at once if that is asked for."""
    say("stopping …", error=True)
    stopping = asyncio.ensure_future(cluster.stop(keep_logs=keep_logs))
    hurried = asyncio.ensure_future(at_once.wait())
    done, _ = await asyncio.wait((stopping, hurried), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        say(f"waiting for calls and loads of {', '.join(cluster.running)}; Ctrl-C again ends them at once", error=True)
        await asyncio.wait((stopping, hurried), return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await cluster.kill()
    hurried.cancel()
    await stopping


class _Followed:
    """The folder of models while it is served: new files are registered, changed ones anew, and those that went are not any more."""

    def __init__(self, cluster: "LocalCluster", folder: Path, files: "Mapping[str, FolderModel]") -> None:
        from modelmesh.instance.model_folder import read_folder

        self._cluster = cluster
        self._folder = folder
        self._registered = dict(files)
        self._stamps = read_folder(folder).stamps
        self._settling: dict[str, tuple[int, int]] = {}
        self._said = ""

    def look(self) -> None:
        """Bring the registrations in line with the folder; what stands in the way is said once."""
        import grpc

        from modelmesh.instance.model_folder import AmbiguousFilesError, read_folder

        try:
            found = read_folder(self._folder)
        except (AmbiguousFilesError, OSError) as error:
            self._say(str(error))
            return
        settled = {model for model, stamp in found.stamps.items() if self._settling.get(model, stamp) == stamp}
        self._settling = found.stamps
        changed = {model for model in settled if self._stamps.get(model, found.stamps[model]) != found.stamps[model]}
        # A file that is still being written is taken when it has stayed the same for a look.
        wanted = {model: file for model, file in found.models.items() if model in self._registered or model in settled}
        if wanted == self._registered and not changed:
            return
        try:
            _register(self._cluster, wanted, changed)
        except (grpc.RpcError, typer.Exit) as error:
            self._say(f"the folder is looked at again: {error}")
            return
        for model in sorted(wanted.keys() - self._registered.keys()):
            self._cluster.progress(f"registered {model}")
        for model in sorted(changed & self._registered.keys()):
            self._cluster.progress(f"registered {model} again: its file has changed")
        self._registered = wanted
        self._stamps = {model: found.stamps[model] for model in wanted}

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._cluster.progress(text)


class _FolderSource:
    """A folder of model files, or nothing."""

    def __init__(self, models: Path | None, files: "Mapping[str, FolderModel]") -> None:
        self._models = models
        self._files = files
        self._followed: _Followed | None = None

    async def start(self, cluster: "LocalCluster") -> None:
        """Start, and register what is in the folder."""
        await cluster.start()
        if self._models is not None:
            count = f"{len(self._files)} {'model' if len(self._files) == 1 else 'models'}"
            cluster.progress(f"registering {count} of {self._models}")
            await asyncio.to_thread(_register, cluster, self._files)
            self._followed = _Followed(cluster, self._models, self._files)

    def explain(self, cluster: "LocalCluster") -> None:
        """Where everything is, and how to call it."""
        _explain(cluster, self._models, self._files)

    def look(self, cluster: "LocalCluster") -> None:
        """Follow the folder."""
        del cluster
        if self._followed is not None:
            self._followed.look()


def _register(
    cluster: "LocalCluster", files: "Mapping[str, FolderModel]", changed: "Collection[str]" = frozenset()
) -> None:
    """Bring what is registered in line with what is in the folder; what stands in the way is said, and the rest goes on.

    `changed`: models whose files have another content than when they were registered.
    """
    import grpc

    from modelmesh._proto import admin_pb2
    from modelmesh._proto import model_mesh_pb2 as pb
    from modelmesh.cli.client import connect
    from modelmesh.instance.model_folder import Change, FolderModel, changes

    with connect(cluster.instances[0].endpoint) as client:

        def page(size: int, token: str) -> tuple[Iterable[admin_pb2.Model], str]:
            request = admin_pb2.ListModelsRequest(page_size=size, page_token=token)
            answer = client.call("modelmesh.v1.Admin/ListModels", request, admin_pb2.ListModelsResponse)
            return answer.models, answer.next_page_token

        listed, _ = client.pages(page, limit=sys.maxsize)
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


def _explain(cluster: "LocalCluster", models: Path | None, files: "Mapping[str, FolderModel]") -> None:
    typer.echo("")
    for instance in cluster.instances:
        metrics = f"  metrics at port {instance.metrics_port}" if instance.metrics_port else ""
        typer.echo(f"  {instance.name}  grpc://{instance.endpoint}{metrics}")
    typer.echo(f"  logs        {cluster.logs}")
    endpoint = cluster.instances[0].endpoint
    model = shlex.quote(next(iter(files), "my-model"))
    typer.echo("\nTry:")
    if models is not None and not files:
        say(f"  cp model.onnx {shlex.quote(str(models))}/my-model.onnx    # registered as my-model within seconds")
    elif not files:
        typer.echo(f"  modelmesh models register my-model --type onnx --path /path/to/model.onnx --address {endpoint}")
    typer.echo(f"  modelmesh models load {model} --address {endpoint}")
    typer.echo(f"  modelmesh models list --address {endpoint}")
    typer.echo("and with any gRPC client, say which model in the header mm-model-id:")
    typer.echo(f"  grpcurl -plaintext -H mm-model-id:{model} {endpoint} {FIRST_CALL}\n")


async def _watch(cluster: "LocalCluster", stop: asyncio.Event, source: Source) -> None:
    """Show what is where until a stop is asked for; without a terminal just wait."""
    from rich.live import Live

    shown = console()
    if not shown.is_terminal:
        typer.echo("running; Ctrl-C stops", err=True)
        while not stop.is_set():
            await _turn(cluster, source)
            await _pause(stop)
        return
    with Live(console=shown, auto_refresh=False, transient=True) as live:
        cluster.progress = lambda text: live.console.print(f"{printable(text)} …")
        while not stop.is_set():
            await _turn(cluster, source)
            live.update(await asyncio.to_thread(_picture, cluster.instances[0].endpoint), refresh=True)
            await _pause(stop)


async def _turn(cluster: "LocalCluster", source: Source) -> None:
    await cluster.mend()
    await asyncio.to_thread(source.look, cluster)


async def _pause(stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(REFRESH_S):
            await stop.wait()
    except TimeoutError:
        pass


def _picture(endpoint: str) -> "Table | str":
    import grpc

    from modelmesh.cli.client import Client
    from modelmesh.cli.instances import picture

    client = Client(endpoint, timeout_s=2.0)
    try:
        return picture(client)
    except grpc.RpcError as error:
        return f"(no answer from {endpoint}: {error.code().name})"
    finally:
        client.close()
