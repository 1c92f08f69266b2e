"""Models and vmodels that an operator's settings register at every start.

Every instance does so, and registering the same again changes nothing. Source: `spec/cluster-state.md` 5.10.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, CallError
from modelmesh.management.models import Models
from modelmesh.management.vmodels import VModelCalls
from modelmesh.ports import StoreError
from modelmesh.values.ids import ModelId, Token

LOAD_BOUND_S = 600
YEAR_MS = 365 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class StaticModel:
    """One model, or a vmodel with its model. `retain`: the model outlives the vmodel's move to another."""

    model: str
    type: str
    path: str = ""
    key: str = ""
    vmodel: str = ""
    retain: bool = False
    ensure_loaded: bool = False


class StaticRegistrationError(Exception):
    """A model could not be registered or loaded; the message names it and the reason."""


async def register_static(plane: ControlPlane, wanted: Sequence[StaticModel]) -> None:
    """Register all, then wait until those that must be loaded are. Nothing in read-only mode.

    Raises:
        StaticRegistrationError: One conflicts with what is registered, failed to load, or took over 10 minutes.
    """
    if not wanted:
        return
    if plane.limits.read_only:
        plane.journal.note("static_skipped", detail=f"{len(wanted)} static registrations: the store is read-only")
        return
    models = Models(plane)
    vmodels = VModelCalls(plane, models)
    for one in wanted:
        try:
            await _register(one, models, vmodels)
        except (CallError, StoreError) as error:
            raise StaticRegistrationError(f"static model {one.model} cannot be registered: {error}") from error
    for one in wanted:
        if one.ensure_loaded:
            await _load(one.model, models, used_ms=plane.clock.now_ms() - YEAR_MS)


async def _register(one: StaticModel, models: Models, vmodels: VModelCalls) -> None:
    call = Call(Token(0), "static registration", {}, send=lambda _: None)
    info = pb.ModelInfo(type=one.type, path=one.path, key=one.key)
    if one.vmodel:
        await vmodels.set_vmodel(
            call,
            pb.SetVModelRequest(
                vModelId=one.vmodel,
                targetModelId=one.model,
                modelInfo=info,
                autoDeleteTargetModel=not one.retain,
                loadNow=one.ensure_loaded,
            ),
        )
    else:
        await models.register(
            call, pb.RegisterModelRequest(modelId=one.model, modelInfo=info, loadNow=one.ensure_loaded)
        )


async def _load(model: str, models: Models, *, used_ms: int) -> None:
    """Wait for the load that registration began. `used_ms` is long ago: a start is no use."""
    try:
        async with asyncio.timeout(LOAD_BOUND_S):
            status = await models.ensure(ModelId(model), last_use_ms=used_ms, sync=True)
    except TimeoutError as error:
        raise StaticRegistrationError(f"static model {model} is not loaded after {LOAD_BOUND_S} s") from error
    except (CallError, StoreError) as error:
        raise StaticRegistrationError(f"static model {model} cannot be loaded: {error}") from error
    if status.status != pb.ModelStatusInfo.LOADED:
        name = pb.ModelStatusInfo.ModelStatus.Name(status.status)
        raise StaticRegistrationError(
            f"static model {model} is {name}: {'; '.join(status.errors) or 'no reason given'}"
        )
