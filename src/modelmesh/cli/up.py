"""`modelmesh up`: everything on one machine, with one command."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.text import console, printable, say

if TYPE_CHECKING:
    from rich.table import Table

    from modelmesh.instance.local_cluster import LocalCluster
    from modelmesh.instance.model_folder import FolderModel

FIRST_PORT = 8033
REFRESH_S = 1.0
SHOWN_MODELS = 20
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
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder that keeps registrations. Default: nothing is kept.")
    ] = None,
) -> None:
    """Run N instances with the built-in Python runtime on this machine, until Ctrl-C. Loopback only."""
    from modelmesh.cli.sizes import parse_size

    try:
        capacity_bytes = parse_size(capacity)
        default_bytes = parse_size(default_size) if default_size else capacity_bytes // 10
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if models is not None and not models.is_dir():
        raise typer.BadParameter(f"{models} is not a folder", param_hint="--models")
    files = _model_files(models) if models is not None else {}
    cluster = _cluster(instances, models, port, capacity_bytes, default_bytes, state)
    raise typer.Exit(asyncio.run(_run(cluster, models, files)))


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
    count: int, models: Path | None, port: int, capacity_bytes: int, default_bytes: int, state: Path | None
) -> "LocalCluster":
    from modelmesh.instance.local_cluster import LocalCluster

    def runtime(_: int, listen: str) -> list[str]:
        command = [sys.executable, "-m", "modelmesh.cli", "runtime", "--listen", listen]
        command += ["--capacity", str(capacity_bytes), "--default-size", str(default_bytes)]
        return command + (["--models", str(models.absolute())] if models is not None else [])

    return LocalCluster(
        count,
        runtime,
        first_port=port,
        folder=state,
        progress=lambda text: say(f"{text} …", error=True),
    )


async def _run(cluster: "LocalCluster", models: Path | None, files: "Mapping[str, FolderModel]") -> int:
    from modelmesh.instance.local_cluster import ClusterStartError
    from modelmesh.instance.local_etcd import LocalEtcdError
    from modelmesh.instance.processes import ChildEndedError
    from modelmesh.instance.state_folder import StateFolderError

    os.umask(0o077)  # registrations, logs and sockets are for this user alone, those of the children too
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        starting = asyncio.ensure_future(_start(cluster, models, files))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        starting.result()
        _explain(cluster, files)
        await _watch(cluster, stop)
    except (ChildEndedError, ClusterStartError, LocalEtcdError, StateFolderError, OSError) as error:
        typer.echo(f"modelmesh up: {error}", err=True)
        return 1
    finally:
        typer.echo("stopping …", err=True)
        await cluster.stop()
    return 0


async def _start(cluster: "LocalCluster", models: Path | None, files: "Mapping[str, FolderModel]") -> None:
    """Start, and register what is in the folder."""
    await cluster.start()
    if models is not None:
        cluster.progress(f"registering {len(files)} {'model' if len(files) == 1 else 'models'} of {models}")
        await asyncio.to_thread(_register, cluster, files)


def _register(cluster: "LocalCluster", files: "Mapping[str, FolderModel]") -> None:
    """Bring what is registered in line with what is in the folder; what stands in the way is said, and the rest goes on."""
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
        for model, change in changes(files, remembered, registered).items():
            try:
                if change is not Change.REGISTER:
                    request = pb.UnregisterModelRequest(modelId=model)
                    client.call("mmesh.ModelMesh/unregisterModel", request, pb.UnregisterModelResponse)
                    cluster.progress(f"unregistered {model}: {ours.pop(model).path} is not there any more")
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


def _explain(cluster: "LocalCluster", files: "Mapping[str, FolderModel]") -> None:
    typer.echo("")
    for instance in cluster.instances:
        typer.echo(f"  {instance.name}  grpc://{instance.endpoint}")
    typer.echo(f"  logs        {cluster.logs}")
    endpoint = cluster.instances[0].endpoint
    model = shlex.quote(next(iter(files), "my-model"))
    typer.echo("\nTry:")
    if not files:
        typer.echo(f"  modelmesh models register my-model --type onnx --path /path/to/model.onnx --address {endpoint}")
    typer.echo(f"  modelmesh models load {model} --address {endpoint}")
    typer.echo(f"  modelmesh models list --address {endpoint}")
    typer.echo("and with any gRPC client, say which model in the header mm-model-id:")
    typer.echo(f"  grpcurl -plaintext -H mm-model-id:{model} {endpoint} {FIRST_CALL}\n")


async def _watch(cluster: "LocalCluster", stop: asyncio.Event) -> None:
    """Show what is where until a stop is asked for; without a terminal just wait."""
    from rich.live import Live

    shown = console()
    if not shown.is_terminal:
        typer.echo("running; Ctrl-C stops", err=True)
        while not stop.is_set():
            await cluster.mend()
            await _pause(stop)
        return
    with Live(console=shown, auto_refresh=False, transient=True) as live:
        cluster.progress = lambda text: live.console.print(f"{printable(text)} …")
        while not stop.is_set():
            await cluster.mend()
            live.update(await asyncio.to_thread(_picture, cluster.instances[0].endpoint), refresh=True)
            await _pause(stop)


async def _pause(stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(REFRESH_S):
            await stop.wait()
    except TimeoutError:
        pass


def _picture(endpoint: str) -> "Table | str":
    """Instances with their memory, and where the first models are."""
    import grpc
    from rich.table import Table

    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import Client
    from modelmesh.cli.sizes import format_size

    client = Client(endpoint, timeout_s=2.0)
    try:
        answer = client.call("modelmesh.v1.Admin/ListInstances", pb.ListInstancesRequest(), pb.ListInstancesResponse)
        page = client.call("modelmesh.v1.Admin/ListModels", pb.ListModelsRequest(page_size=1000), pb.ListModelsResponse)
    except grpc.RpcError as error:
        return f"(no answer from {endpoint}: {error.code().name})"
    finally:
        client.close()
    table = Table("INSTANCE", "MODELS", "MEMORY", "LOADING", "WAITING", "HOLDS", box=None, pad_edge=False)
    for instance in answer.instances:
        held = [model.id for model in page.models if any(copy.instance_id == instance.id for copy in model.copies)]
        more = f" … (+{len(held) - SHOWN_MODELS})" if len(held) > SHOWN_MODELS else ""
        table.add_row(
            instance.id,
            str(instance.copies),
            f"{format_size(instance.used_bytes)} of {format_size(instance.capacity_bytes)}",
            str(instance.loads_in_progress - instance.loads_waiting),
            str(instance.loads_waiting),
            printable(", ".join(held[:SHOWN_MODELS]) + more),
        )
    return table
