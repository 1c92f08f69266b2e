"""`modelmesh vmodels`: give models stable names, and move the names to other models."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.models import LOCAL, Address, AsJson, Authority, table
from modelmesh.cli.text import say, word_of
from modelmesh.cli.vmodel_counts import copies_to, counts_as_json, counts_of, print_counts, shadow_as_json
from modelmesh.cli.vmodel_rollouts import rollout_as_json

if TYPE_CHECKING:
    from modelmesh._proto import admin_pb2, model_mesh_pb2
    from modelmesh.cli.client import Client

vmodels = typer.Typer(
    help="Stable names for changing models: set, split, look at and delete them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

VModelArgument = Annotated[str, typer.Argument(metavar="VMODEL", help="The stable name.")]
Owner = Annotated[str, typer.Option("--owner", help="Refuse if it belongs to another owner.")]
MOVE_TIMEOUT_S = 300.0


@vmodels.command("set")
def set_vmodel(
    vmodel: VModelArgument,
    target: Annotated[str, typer.Argument(metavar="MODEL", help="The model it shall name.")],
    model_type: Annotated[str, typer.Option("--type", help="Register MODEL with this type if it is new.")] = "",
    path: Annotated[str, typer.Option("--path", help="Path of a new MODEL.")] = "",
    key: Annotated[str, typer.Option("--key", help="Opaque text of a new MODEL for the runtime.")] = "",
    auto_delete: Annotated[
        bool, typer.Option("--auto-delete", help="Unregister a new MODEL when no vmodel names it any more.")
    ] = False,
    update_only: Annotated[bool, typer.Option("--update-only", help="Fail if the vmodel does not exist.")] = False,
    expected: Annotated[str, typer.Option("--expected", help="Fail unless this is its target now.")] = "",
    owner: Owner = "",
    force: Annotated[bool, typer.Option("--force", help="Move at once, before the model is loaded.")] = False,
    load: Annotated[bool, typer.Option("--load", help="Load the model even if nothing is loaded now.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until it has moved.")] = False,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Create a vmodel or move it to another model; calls continue without a failure while it moves."""
    from modelmesh._proto import model_mesh_pb2 as pb

    request = pb.SetVModelRequest(
        vModelId=vmodel,
        targetModelId=target,
        modelInfo=pb.ModelInfo(type=model_type, path=path, key=key) if model_type or path or key else None,
        autoDeleteTargetModel=auto_delete,
        updateOnly=update_only,
        expectedTargetModelId=expected,
        owner=owner,
        force=force,
        loadNow=load,
        sync=not no_wait,
    )
    from modelmesh.cli.client import connect

    with connect(address, ca) as client:
        info = client.call(
            "mmesh.ModelMesh/setVModel",
            request,
            pb.VModelStatusInfo,
            timeout_s=MOVE_TIMEOUT_S,
            doing=f"moving {vmodel} to {target}",
        )
        entry = _entry(client, vmodel)
    _show(vmodel, info, entry, as_json=as_json)


@vmodels.command()
def split(
    vmodel: VModelArgument,
    shares: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL=PERCENT]…", help="Models, and the percent of its calls that each shall get."),
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="The active model gets all calls again.")] = False,
    owner: Owner = "",
    force: Annotated[bool, typer.Option("--force", help="Do not load the models first.")] = False,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Give a part of a vmodel's calls to other models (a canary); they are loaded first. The active model gets the rest."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect

    if bool(shares) is end:
        raise typer.BadParameter("name MODEL=PERCENT at least once, or --end")
    request = pb.SetSplitRequest(
        vmodel_id=vmodel, split=[_share(text) for text in shares or ()], owner=owner, force=force
    )
    with connect(address, ca) as client:
        answer = client.call(
            "modelmesh.v1.Admin/SetSplit", request, pb.VModel, timeout_s=MOVE_TIMEOUT_S, doing=f"splitting {vmodel}"
        )
    if as_json:
        typer.echo(json.dumps(_as_json(answer)))
        return
    say(f"{vmodel}: {_percent_left(answer.split)} % to {answer.active_model_id}")
    _print_shares(answer.split)


@vmodels.command()
def label(
    vmodel: VModelArgument,
    labels: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LABEL=MODEL]…", help="Names for models that calls can choose as versions."),
    ] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="LABEL", help="Remove a label.")] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=0, max=16, help="So many earlier active models stay callable.")
    ] = None,
    owner: Owner = "",
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Give names to versions of a vmodel, for calls that choose one. `stable` and `latest` are always there."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect

    if not labels and not remove and keep is None:
        raise typer.BadParameter("name LABEL=MODEL, --remove LABEL or --keep")
    request = pb.SetLabelsRequest(
        vmodel_id=vmodel,
        labels=[*(_label(text) for text in labels or ()), *(pb.Label(label=label) for label in remove or ())],
        keep=keep,
        owner=owner,
    )
    with connect(address, ca) as client:
        answer = client.call("modelmesh.v1.Admin/SetLabels", request, pb.VModel)
    if as_json:
        typer.echo(json.dumps(_as_json(answer)))
        return
    _print_versions(answer)


@vmodels.command()
def fallback(
    vmodel: VModelArgument,
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="Answers while the wanted model is not loaded, or fails.")
    ] = "",
    end: Annotated[bool, typer.Option("--end", help="Calls wait for the wanted model again.")] = False,
    owner: Owner = "",
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Let another model answer while the wanted one is cold, cannot be loaded, or fails the call."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect

    if bool(model) is end:
        raise typer.BadParameter("name MODEL, or --end")
    request = pb.SetFallbackRequest(vmodel_id=vmodel, model_id=model, owner=owner)
    with connect(address, ca) as client:
        answer = client.call("modelmesh.v1.Admin/SetFallback", request, pb.VModel)
    if as_json:
        typer.echo(json.dumps(_as_json(answer)))
        return
    say(f"{vmodel}: {f'fallback {model}' if model else 'no fallback'}")


@vmodels.command()
def shadow(
    vmodel: VModelArgument,
    share: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL=PERCENT]", help="The model, and the percent of the calls that it gets copies of."
        ),
    ] = "",
    compare: Annotated[bool, typer.Option("--compare", help="Compare its answers with those of the callers.")] = False,
    end: Annotated[bool, typer.Option("--end", help="No calls are copied any more.")] = False,
    owner: Owner = "",
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """Send copies of a part of a vmodel's calls to another model. Callers do not wait for it and do not get its answers."""
    from modelmesh._proto import admin_pb2 as pb
    from modelmesh.cli.client import connect

    if bool(share) is end:
        raise typer.BadParameter("name MODEL=PERCENT, or --end")
    request = pb.SetShadowRequest(vmodel_id=vmodel, owner=owner)
    if share:
        wanted = _share(share)
        request.shadow.CopyFrom(pb.Shadow(model_id=wanted.model_id, percent=wanted.percent, compares=compare))
    with connect(address, ca) as client:
        answer = client.call("modelmesh.v1.Admin/SetShadow", request, pb.VModel)
    if as_json:
        typer.echo(json.dumps(_as_json(answer)))
        return
    say(f"{vmodel}: {copies_to(answer.shadow) if share else 'no calls are copied'}")


@vmodels.command("list")
def list_vmodels(
    prefix: Annotated[str, typer.Option("--prefix", help="Only ids that start so.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show at most so many.")] = 1000,
    address: Address = LOCAL,
    ca: Authority = None,
    as_json: AsJson = False,
) -> None:
    """List vmodels, the models that they name, and how their calls are split."""
    from modelmesh.cli.client import connect

    with connect(address, ca) as client:
        found, more = client.vmodels(prefix=prefix, limit=limit)
    if as_json:
        typer.echo(json.dumps({"vmodels": [_as_json(vmodel) for vmodel in found], "more": more}))
        return
    table(
        ("VMODEL", "ACTIVE", "TARGET", "SPLIT", "OWNER"),
        [
            (
                vmodel.id,
                vmodel.active_model_id,
                "-" if vmodel.target_model_id == vmodel.active_model_id else vmodel.target_model_id,
                ", ".join(f"{share.model_id} {share.percent} %" for share in vmodel.split) or "-",
                vmodel.owner or "-",
            )
            for vmodel in found
        ],
    )
    if more:
        say(f"(there are more; --limit is {limit})")


@vmodels.command()
def status(
    vmodel: VModelArgument, owner: Owner = "", address: Address = LOCAL, ca: Authority = None, as_json: AsJson = False
) -> None:
    """Show which model a vmodel names, whether it is moving, and how its calls are split."""
    from modelmesh._proto import model_mesh_pb2 as pb
    from modelmesh.cli.client import connect

    request = pb.GetVModelStatusRequest(vModelId=vmodel, owner=owner)
    with connect(address, ca) as client:
        info = client.call("mmesh.ModelMesh/getVModelStatus", request, pb.VModelStatusInfo)
        entry = _entry(client, vmodel)
        counts = counts_of(client, entry)
    _show(vmodel, info, entry, counts, as_json=as_json)


@vmodels.command()
def rollback(
    vmodel: VModelArgument, owner: Owner = "", address: Address = LOCAL, ca: Authority = None, as_json: AsJson = False
) -> None:
    """Give up a move that is under way or has failed: the vmodel stays with its active model."""
    from modelmesh._proto import model_mesh_pb2 as pb
    from modelmesh.cli.client import connect

    with connect(address, ca) as client:
        request = pb.GetVModelStatusRequest(vModelId=vmodel, owner=owner)
        info = client.call("mmesh.ModelMesh/getVModelStatus", request, pb.VModelStatusInfo)
        if info.activeModelId == info.targetModelId:
            if info.status == pb.VModelStatusInfo.NOT_FOUND:
                say(f"{vmodel}: there is no such vmodel", error=True)
            else:
                back = f"modelmesh vmodels set {vmodel} MODEL"
                say(f"{vmodel}: it is not moving; to move it back to an earlier model: {back}", error=True)
            raise typer.Exit(1)
        stay = pb.SetVModelRequest(
            vModelId=vmodel,
            targetModelId=info.activeModelId,
            expectedTargetModelId=info.targetModelId,
            updateOnly=True,
            owner=owner,
        )
        info = client.call("mmesh.ModelMesh/setVModel", stay, pb.VModelStatusInfo)
        entry = _entry(client, vmodel)
    _show(vmodel, info, entry, as_json=as_json)


@vmodels.command()
def delete(
    vmodel: VModelArgument, owner: Owner = "", address: Address = LOCAL, ca: Authority = None, as_json: AsJson = False
) -> None:
    """Delete a vmodel; unknown ones, and those of another owner, are left as they are."""
    from modelmesh._proto import model_mesh_pb2 as pb
    from modelmesh.cli.client import connect

    with connect(address, ca) as client:
        client.call(
            "mmesh.ModelMesh/deleteVModel",
            pb.DeleteVModelRequest(vModelId=vmodel, owner=owner),
            pb.DeleteVModelResponse,
        )
    typer.echo(json.dumps({"vmodel": vmodel}) if as_json else f"{vmodel}: deleted")


def _label(text: str) -> "admin_pb2.Label":
    from modelmesh._proto import admin_pb2 as pb

    label, _, model = text.partition("=")
    if not label or not model:
        raise typer.BadParameter(f"{text!r} is not LABEL=MODEL")
    return pb.Label(label=label, model_id=model)


def _print_versions(vmodel: "admin_pb2.VModel") -> None:
    """The names that calls can choose, and the models behind them."""
    rows: list[tuple[str, ...]] = [("stable", vmodel.active_model_id), ("latest", vmodel.target_model_id)]
    rows += [(label.label, label.model_id) for label in vmodel.labels]
    rows += [(model, model) for model in vmodel.kept_model_ids]
    table(("VERSION", "MODEL"), rows)


def _share(text: str) -> "admin_pb2.Share":
    from modelmesh._proto import admin_pb2 as pb

    model, _, percent = text.rpartition("=")
    if not model or not percent.isdecimal():
        raise typer.BadParameter(f"{text!r} is not MODEL=PERCENT")
    if not 0 < int(percent) <= 100:
        raise typer.BadParameter(f"{text!r}: 1 to 100 percent are possible")
    return pb.Share(model_id=model, percent=int(percent))


def _entry(client: "Client", vmodel: str) -> "admin_pb2.VModel":
    """How the calls of a vmodel are split, and which versions of it can be called."""
    from modelmesh._proto import admin_pb2 as pb

    request = pb.ListVModelsRequest(page_size=1, prefix=vmodel)  # of all ids that start so, it is the first
    found = client.call("modelmesh.v1.Admin/ListVModels", request, pb.ListVModelsResponse).vmodels
    return next((entry for entry in found if entry.id == vmodel), pb.VModel())


def _percent_left(shares: "Iterable[admin_pb2.Share]") -> int:
    return 100 - sum(share.percent for share in shares)


def _print_shares(shares: "Iterable[admin_pb2.Share]") -> None:
    for share in shares:
        say(f"  {share.percent} % to {share.model_id}")


def _as_json(vmodel: "admin_pb2.VModel") -> dict[str, object]:
    return {
        "vmodel": vmodel.id,
        "active": vmodel.active_model_id,
        "target": vmodel.target_model_id,
        "owner": vmodel.owner,
        "split": {share.model_id: share.percent for share in vmodel.split},
        **_versions(vmodel),
    }


def _versions(vmodel: "admin_pb2.VModel") -> dict[str, object]:
    return {
        "labels": {label.label: label.model_id for label in vmodel.labels},
        "keep": vmodel.keep,
        "kept": list(vmodel.kept_model_ids),
        "fallback": vmodel.fallback_model_id or None,
        "shadow": shadow_as_json(vmodel.shadow) if vmodel.HasField("shadow") else None,
        "rollout": rollout_as_json(vmodel),
    }


def _print_others(entry: "admin_pb2.VModel") -> None:
    """The models that may answer beside the active one."""
    _print_shares(entry.split)
    for label in entry.labels:
        say(f"  {label.label}: {label.model_id}")
    if entry.kept_model_ids:
        say(f"  kept: {', '.join(entry.kept_model_ids)}")
    if entry.fallback_model_id:
        say(f"  fallback: {entry.fallback_model_id}")


def _show(
    vmodel: str,
    info: "model_mesh_pb2.VModelStatusInfo",
    entry: "admin_pb2.VModel",
    counts: "admin_pb2.CountVModelResponse | None" = None,
    *,
    as_json: bool,
) -> None:
    from modelmesh._proto import model_mesh_pb2 as pb

    status_name = word_of(pb.VModelStatusInfo.VModelStatus, info.status)

    def of_model(status: int) -> str:
        return word_of(pb.ModelStatusInfo.ModelStatus, status)

    moving = info.activeModelId != info.targetModelId
    errors = list(info.targetModelStatus.errors if moving else info.activeModelStatus.errors)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "vmodel": vmodel,
                    "status": status_name,
                    "owner": info.owner,
                    "active": info.activeModelId,
                    "active_status": of_model(info.activeModelStatus.status),
                    "target": info.targetModelId,
                    "target_status": of_model(info.targetModelStatus.status) if moving else None,
                    "split": {share.model_id: share.percent for share in entry.split},
                    **_versions(entry),
                    **({} if counts is None else counts_as_json(counts)),
                    "errors": errors,
                }
            )
        )
    else:
        say(f"{vmodel}: {status_name}")
        if info.activeModelId:
            say(f"  active {info.activeModelId}: {of_model(info.activeModelStatus.status)}")
        if moving:
            say(f"  target {info.targetModelId}: {of_model(info.targetModelStatus.status)}")
        _print_others(entry)
        if counts is not None:
            print_counts(entry, counts)
        for error in errors:
            say(f"  error: {error}")
    if info.status in {pb.VModelStatusInfo.NOT_FOUND, pb.VModelStatusInfo.TRANSITION_FAILED}:
        raise typer.Exit(1)
