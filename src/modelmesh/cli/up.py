"""`modelmesh up`: everything on one machine, with one command."""

import asyncio
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from modelmesh.instance.local_cluster import LocalCluster

FIRST_PORT = 8033
REFRESH_S = 1.0
SHOWN_MODELS = 20
FORMATS = {".joblib": "sklearn", ".pkl": "sklearn", ".onnx": "onnx"}
"""Files that are registered, by suffix, and the model type they get."""
FIRST_CALL = "inference.GRPCInferenceService/ModelMetadata"
"""Tells a model's inputs and outputs; an empty message will do."""


def up(
    instances: Annotated[int, typer.Option("--instances", "-n", min=1, max=32, help="How many instances.")] = 1,
    models: Annotated[
        Path | None,
        typer.Option("--models", help="Folder of model files (.joblib, .pkl, .onnx); each is registered."),
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
        progress=lambda text: typer.echo(f"{text} …", err=True),
    )


async def _run(cluster: "LocalCluster", models: Path | None, files: Mapping[str, Path]) -> int:
    from modelmesh.instance.local_cluster import ClusterStartError
    from modelmesh.instance.local_etcd import LocalEtcdError
    from modelmesh.instance.processes import ChildEndedError

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
    except (ChildEndedError, ClusterStartError, LocalEtcdError, OSError) as error:
        typer.echo(f"modelmesh up: {error}", err=True)
        return 1
    finally:
        typer.echo("stopping …", err=True)
        await cluster.stop()
    return 0


async def _start(cluster: "LocalCluster", models: Path | None, files: Mapping[str, Path]) -> None:
    """Start, and register what is in the folder."""
    await cluster.start()
    if models is not None:
        cluster.progress(f"registering {len(files)} {'model' if len(files) == 1 else 'models'} of {models}")
        await asyncio.to_thread(_register, cluster.instances[0].endpoint, models, files)


def _model_files(folder: Path) -> dict[str, Path]:
    """The files to register, by the id that each will have: its path without the suffix."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix in FORMATS:
            model = file.relative_to(folder).with_suffix("").as_posix()
            if model in found:
                raise typer.BadParameter(
                    f"{found[model].name} and {file.name} in {file.parent} would both be the model {model}; "
                    "rename one, or take it out of the folder",
                    param_hint="--models",
                )
            found[model] = file
    return found


def _register(endpoint: str, folder: Path, files: Mapping[str, Path]) -> None:
    from modelmesh._proto import model_mesh_pb2 as pb
    from modelmesh.cli.client import connect

    with connect(endpoint) as client:
        for model, file in files.items():
            info = pb.ModelInfo(type=FORMATS[file.suffix], path=file.relative_to(folder).as_posix())
            request = pb.RegisterModelRequest(modelId=model, modelInfo=info)
            client.call("mmesh.ModelMesh/registerModel", request, pb.ModelStatusInfo, doing=f"registering {model}")


def _explain(cluster: "LocalCluster", files: Mapping[str, Path]) -> None:
    typer.echo("")
    for instance in cluster.instances:
        typer.echo(f"  {instance.name}  grpc://{instance.endpoint}")
    typer.echo(f"  logs        {cluster.logs}")
    endpoint = cluster.instances[0].endpoint
    model = shlex.quote(next(iter(files), "my-model"))
    typer.echo("\nTry:")
    if not files:
        typer.echo(
            f"  modelmesh models register my-model --type sklearn --path /path/to/model.joblib --address {endpoint}"
        )
    typer.echo(f"  modelmesh models load {model} --address {endpoint}")
    typer.echo(f"  modelmesh models list --address {endpoint}")
    typer.echo("and with any gRPC client, say which model in the header mm-model-id:")
    typer.echo(f"  grpcurl -plaintext -H mm-model-id:{model} {endpoint} {FIRST_CALL}\n")


async def _watch(cluster: "LocalCluster", stop: asyncio.Event) -> None:
    """Show what is where until a stop is asked for; without a terminal just wait."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not console.is_terminal:
        typer.echo("running; Ctrl-C stops", err=True)
        while not stop.is_set():
            cluster.check()
            await _pause(stop)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not stop.is_set():
            cluster.check()
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
    table = Table("INSTANCE", "MODELS", "MEMORY", "LOADING", "HOLDS", box=None, pad_edge=False)
    for instance in answer.instances:
        held = [model.id for model in page.models if any(copy.instance_id == instance.id for copy in model.copies)]
        more = f" … (+{len(held) - SHOWN_MODELS})" if len(held) > SHOWN_MODELS else ""
        table.add_row(
            instance.id,
            str(instance.copies),
            f"{format_size(instance.used_bytes)} of {format_size(instance.capacity_bytes)}",
            str(instance.loads_in_progress),
            ", ".join(held[:SHOWN_MODELS]) + more,
        )
    return table
