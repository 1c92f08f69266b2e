"""`modelmesh models`: register, look at, load, unload and unregister models of a running cluster."""

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.text import console, printable, say, word_of

if TYPE_CHECKING:
    from modelmesh._proto import admin_pb2, model_mesh_pb2
    from modelmesh.cli.client import Client

models = typer.Typer(help="Register, load, unload and look at models.", no_args_is_help=True, rich_markup_mode=None)

Address = Annotated[
    str, typer.Option("--address", envvar="MODELMESH_ADDRESS", help="Serving endpoint of any instance.")
]
Authority = Annotated[
    Path | None, typer.Option("--ca", envvar="MODELMESH_CA", help="PEM file of its certificate authority (TLS).")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document, for machines.")]
ModelIdArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Id of the model.")]
LOCAL = "localhost:8033"
LOAD_TIMEOUT_S = 600.0


@models.command()
def register(
    model: ModelIdArgument,
    model_type: Annotated[str, typer.Option("--type", help="Type, as the runtime knows it: sklearn, onnx, …")],
    path: Annotated[str, typer.Option("--path", help="Where the runtime finds it.")] = "",
    key: Annotated[str, typer.Option("--key", help="Opaque text for the runtime.")] = "",
    load: Annotated[bool, typer.Option("--load", help="Load it now, and wait for it.")] = False,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Register a model; registering the same again is fine."""
    from modelmesh._proto import model_mesh_pb2 as pb

    request = pb.RegisterModelRequest(
        modelId=model,
        modelInfo=pb.ModelInfo(type=model_type, path=path, key=key),
        loadNow=load,
        sync=load,
    )
    with _client(address, ca) as client:
        info = client.call(
            "mmesh.ModelMesh/registerModel",
            request,
            pb.ModelStatusInfo,
            timeout_s=LOAD_TIMEOUT_S,
            doing=f"{'loading' if load else 'registering'} {model}",
        )
    _show(model, info, as_json=as_json)


@models.command()
def status(model: ModelIdArgument, address: Address = LOCAL, ca: Authority = None, as_json: AsJson = False) -> None:
    """Show where a model is and what failed with it."""
    from modelmesh._proto import model_mesh_pb2 as pb

    with _client(address, ca) as client:
        info = client.call("mmesh.ModelMesh/getModelStatus", pb.GetStatusRequest(modelId=model), pb.ModelStatusInfo)
        loads = {copy.location for copy in info.modelCopyInfos if copy.copyStatus == pb.ModelStatusInfo.LOADING}
        progress = _progress(client, model) if loads else {}
    _show(model, info, as_json=as_json, progress={one: text for one, text in progress.items() if one in loads})


@models.command()
def load(
    model: ModelIdArgument,
    retry: Annotated[bool, typer.Option("--retry", help="Also where loads have failed and are remembered.")] = False,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Load a model if no copy is loaded, and wait for it."""
    from modelmesh._proto import model_mesh_pb2 as pb

    request = pb.EnsureLoadedRequest(modelId=model, sync=True)
    with _client(address, ca) as client:
        info = client.call(
            "mmesh.ModelMesh/ensureLoaded",
            request,
            pb.ModelStatusInfo,
            timeout_s=LOAD_TIMEOUT_S,
            doing=f"loading {model}",
            headers=[("mm-retry", "true")] if retry else [],
        )
    _show(model, info, as_json=as_json)


@models.command()
def unload(model: ModelIdArgument, address: Address = LOCAL, ca: Authority = None, as_json: AsJson = False) -> None:
    """Unload all copies of a model; it stays registered."""
    from modelmesh._proto import admin_pb2 as pb

    with _client(address, ca) as client:
        answer = client.call(
            "modelmesh.v1.Admin/UnloadModel", pb.UnloadModelRequest(model_id=model), pb.UnloadModelResponse
        )
    instances = list(answer.instance_ids)
    if as_json:
        typer.echo(json.dumps({"model": model, "instances": instances}))
    elif instances:
        say(f"{model}: unloading at {', '.join(instances)}")
    else:
        say(f"{model}: no copy was loaded")


@models.command()
def copies(
    model: ModelIdArgument,
    minimum: Annotated[
        int | None, typer.Option("--min", min=0, help="Keep so many loaded; 0: none needs to be.")
    ] = None,
    maximum: Annotated[int | None, typer.Option("--max", min=0, help="Never load more; 0: no bound.")] = None,
    pinned: Annotated[bool | None, typer.Option("--pin/--no-pin", help="Whether they may never be evicted.")] = None,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Set how many copies a model should have; what is not given stays as it is."""
    from modelmesh._proto import admin_pb2 as pb

    request = pb.SetCopiesRequest(model_id=model, minimum=minimum, maximum=maximum, pinned=pinned)
    with _client(address, ca) as client:
        answer = client.call("modelmesh.v1.Admin/SetCopies", request, pb.Model)
    if as_json:
        wanted = {"minimum": answer.minimum_copies, "maximum": answer.maximum_copies, "pinned": answer.pinned}
        typer.echo(json.dumps({"model": model, **wanted, "copies": [copy.instance_id for copy in answer.copies]}))
    else:
        bound = f"at most {answer.maximum_copies}" if answer.maximum_copies else "any number"
        kept = "pinned" if answer.pinned else "not pinned"
        say(f"{model}: at least {answer.minimum_copies} copies, {bound}, {kept}; {len(answer.copies)} now")


@models.command()
def unregister(model: ModelIdArgument, address: Address = LOCAL, ca: Authority = None, as_json: AsJson = False) -> None:
    """Unregister a model and unload it everywhere; unknown ids are fine."""
    from modelmesh._proto import model_mesh_pb2 as pb

    with _client(address, ca) as client:
        client.call(
            "mmesh.ModelMesh/unregisterModel", pb.UnregisterModelRequest(modelId=model), pb.UnregisterModelResponse
        )
    typer.echo(json.dumps({"model": model}) if as_json else f"{model}: unregistered")


@models.command("list")
def list_models(
    prefix: Annotated[str, typer.Option("--prefix", help="Only ids that start so.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show at most so many.")] = 1000,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """List registered models and where they are loaded."""
    from modelmesh._proto import admin_pb2 as pb

    with _client(address, ca) as client:
        found, more = client.models(prefix=prefix, limit=limit)
    if as_json:
        from modelmesh.cli.client import described

        typer.echo(json.dumps({"models": [described(model) for model in found], "more": more}))
        return
    table(
        ("MODEL", "TYPE", "LOADED AT", "LAST USED"),
        [
            (
                model.id,
                model.type,
                ", ".join(
                    copy.instance_id + ("" if copy.state == pb.Copy.LOADED else " (loading)") for copy in model.copies
                )
                or "-",
                _ago(model.last_use_ms),
            )
            for model in found
        ],
    )
    for line in failures(found):
        say(line)
    if more:
        say(f"(there are more; --limit is {limit})")


def failures(found: "Iterable[admin_pb2.Model]") -> list[str]:
    """Why models are not loaded anywhere: each message once, with its instances."""
    from modelmesh._proto import admin_pb2 as pb

    lines = []
    for model in found:
        if any(copy.state == pb.Copy.LOADED for copy in model.copies):
            continue
        instances: dict[str, list[str]] = {}
        for failure in model.failures:
            instances.setdefault(failure.message, []).append(failure.instance_id)
        lines += [f"{model.id} failed to load at {', '.join(names)}: {message}" for message, names in instances.items()]
    return lines


def _client(address: str, ca: Path | None) -> AbstractContextManager["Client"]:
    from modelmesh.cli.client import connect

    return connect(address, ca)


def _progress(client: "Client", model: str) -> dict[str, str]:
    """The last reported progress of the loads of a model, by instance."""
    from modelmesh._proto import admin_pb2 as pb

    answer = client.call("modelmesh.v1.Admin/Explain", pb.ExplainRequest(model_id=model), pb.ExplainResponse)
    found: dict[str, str] = {}
    for event in answer.events:  # oldest first
        if event.kind == "load_started":
            found.pop(event.instance_id, None)
        elif event.kind == "load_progress":
            found[event.instance_id] = event.detail
    return found


def _show(
    model: str,
    info: "model_mesh_pb2.ModelStatusInfo",
    *,
    as_json: bool,
    progress: "Mapping[str, str] | None" = None,
) -> None:
    from modelmesh._proto import model_mesh_pb2 as pb

    def names(status: int) -> str:
        return word_of(pb.ModelStatusInfo.ModelStatus, status)

    if as_json:
        typer.echo(
            json.dumps(
                {
                    "model": model,
                    "status": names(info.status),
                    "errors": list(info.errors),
                    "copies": [
                        {
                            "instance": copy.location,
                            "status": names(copy.copyStatus),
                            "since_ms": copy.time,
                            **({"progress": progress[copy.location]} if progress and copy.location in progress else {}),
                        }
                        for copy in info.modelCopyInfos
                    ],
                }
            )
        )
    else:
        say(f"{model}: {names(info.status)}")
        for copy in info.modelCopyInfos:
            stage = f" ({progress[copy.location]})" if progress and copy.location in progress else ""
            age = f" for {_ago(copy.time).removesuffix(' ago')}" if copy.time else ""
            say(f"  {copy.location}: {names(copy.copyStatus)}{age}{stage}")
        for error in dict.fromkeys(info.errors):
            say(f"  error: {error}")
    if info.status in {pb.ModelStatusInfo.LOADING_FAILED, pb.ModelStatusInfo.NOT_FOUND}:
        raise typer.Exit(1)


def _ago(time_ms: int) -> str:
    if not time_ms:
        return "never"
    seconds = max(0, round(time.time() - time_ms / 1000))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print rows under a header."""
    from rich.table import Table

    printed = Table(*header, box=None, pad_edge=False)
    for row in rows:
        printed.add_row(*map(printable, row))
    console().print(printed)
