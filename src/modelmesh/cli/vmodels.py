"""`modelmesh vmodels`: give models stable names, and move the names to other models."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.models import LOCAL, Address, AsJson, Authority

if TYPE_CHECKING:
    from modelmesh._proto import model_mesh_pb2

vmodels = typer.Typer(
    help="Stable names for changing models: set, look at and delete them.", no_args_is_help=True, rich_markup_mode=None
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
    """Create a vmodel or move it to another model; calls go on without a failure while it moves."""
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
    _show(vmodel, info, as_json=as_json)


@vmodels.command()
def status(
    vmodel: VModelArgument, owner: Owner = "", address: Address = LOCAL, ca: Authority = None, as_json: AsJson = False
) -> None:
    """Show which model a vmodel names, and whether it is moving."""
    from modelmesh._proto import model_mesh_pb2 as pb
    from modelmesh.cli.client import connect

    request = pb.GetVModelStatusRequest(vModelId=vmodel, owner=owner)
    with connect(address, ca) as client:
        info = client.call("mmesh.ModelMesh/getVModelStatus", request, pb.VModelStatusInfo)
    _show(vmodel, info, as_json=as_json)


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


def _show(vmodel: str, info: "model_mesh_pb2.VModelStatusInfo", *, as_json: bool) -> None:
    from modelmesh._proto import model_mesh_pb2 as pb

    status_name = pb.VModelStatusInfo.VModelStatus.Name(info.status)
    of_model = pb.ModelStatusInfo.ModelStatus.Name
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
                    "errors": errors,
                }
            )
        )
    else:
        typer.echo(f"{vmodel}: {status_name}")
        if info.activeModelId:
            typer.echo(f"  active {info.activeModelId}: {of_model(info.activeModelStatus.status)}")
        if moving:
            typer.echo(f"  target {info.targetModelId}: {of_model(info.targetModelStatus.status)}")
        for error in errors:
            typer.echo(f"  error: {error}")
    if info.status in {pb.VModelStatusInfo.NOT_FOUND, pb.VModelStatusInfo.TRANSITION_FAILED}:
        raise typer.Exit(1)
