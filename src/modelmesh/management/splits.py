"""`modelmesh.v1.Admin`: lists vmodels, and splits their calls between models."""

import asyncio
from collections.abc import Mapping, Sequence

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.control.plane import ControlPlane
from modelmesh.control.view.keys import VModelKey
from modelmesh.control.view.vmodels import StoredVModel
from modelmesh.management.calls import Call, CallError, Method, page_size, reading
from modelmesh.management.models import Models, not_registered, refuse_read_only
from modelmesh.management.vmodels import SYNC_BOUND_MS, WRITES, checked_vmodel, contended
from modelmesh.policy.split import SplitRefused, resplit
from modelmesh.ports import KeyValue
from modelmesh.values.access import Kind
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.rollout import Rollout, RolloutState
from modelmesh.values.shadow import Shadow
from modelmesh.values.status import Status
from modelmesh.values.stored import RecordError

Split = Sequence[tuple[ModelId, int]]


class Splits:
    """Handlers of the vmodel half of the service."""

    def __init__(self, plane: ControlPlane, models: Models) -> None:
        self._plane = plane
        self._models = models

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {
            "modelmesh.v1.Admin/ListVModels": Method(pb.ListVModelsRequest, self.list_vmodels),
            "modelmesh.v1.Admin/SetSplit": Method(pb.SetSplitRequest, self.set_split),
        }

    async def list_vmodels(self, call: Call, request: pb.ListVModelsRequest) -> pb.ListVModelsResponse:
        """A page of vmodels, ordered by id; those whose records cannot be read are left out."""
        prefix = self._plane.keys.vmodels
        page = await self._plane.store.range(
            prefix + request.prefix,
            start_after=prefix + request.page_token if request.page_token else "",
            limit=page_size(request.page_size),
        )
        vmodels = [self._vmodel(item) for item in page.items]
        return pb.ListVModelsResponse(
            vmodels=[vmodel for vmodel in vmodels if vmodel is not None and call.sees(Kind.VMODEL, vmodel.id)],
            next_page_token=page.items[-1].key.removeprefix(prefix) if page.more else "",
        )

    async def set_split(self, _: Call, request: pb.SetSplitRequest) -> pb.VModel:
        """Load the models that are new to the vmodel, then give them their shares."""
        vmodel = checked_vmodel(request.vmodel_id)
        split = [(ModelId(share.model_id), share.percent) for share in request.split]
        loaded: dict[ModelId, None] = {}
        for _attempt in range(WRITES):
            found = await self._read(vmodel)
            wanted = resplit(vmodel, found.record if found is not None else None, split, owner=request.owner)
            if isinstance(wanted, SplitRefused):
                raise CallError(wanted.status, wanted.message)
            assert found is not None
            refuse_read_only(self._plane.limits.read_only)
            new = [model for model in wanted.models if model not in found.record.models and model not in loaded]
            if new:
                await self.prepare(vmodel, new, load=not request.force)
                loaded |= dict.fromkeys(new)
                continue  # it may have changed meanwhile
            if await self._plane.vmodels.write(vmodel, found, wanted) is not None:
                shares = ", ".join(f"{percent} % to {model}" for model, percent in split)
                self._plane.journal.note("split_set", detail=f"{vmodel}: {shares or f'all to {wanted.active}'}")
                return describe(vmodel, wanted)
        raise contended(vmodel)

    async def prepare(self, vmodel: VModelId, models: Sequence[ModelId], *, load: bool) -> None:
        """Make sure that the models exist and, if wanted, that each has a copy."""
        for model in models:
            if await self._models.read(model, fresh=True) is None:
                raise not_registered(model)
        if not load:
            return
        now_ms = self._plane.clock.now_ms()
        try:
            async with asyncio.timeout(SYNC_BOUND_MS / 1000):
                statuses = await asyncio.gather(
                    *(self._models.ensure(model, last_use_ms=now_ms, sync=True) for model in models)
                )
        except TimeoutError as error:
            message = f"not all models of the split of vmodel {vmodel} were loaded within {SYNC_BOUND_MS // 1000} s"
            raise CallError(Status.DEADLINE_EXCEEDED, message) from error
        for model, info in zip(models, statuses, strict=True):
            if info.status != mesh.ModelStatusInfo.LOADED:
                why = info.errors[0] if info.errors else mesh.ModelStatusInfo.ModelStatus.Name(info.status)
                message = f"model {model} cannot be loaded, so it gets no calls of vmodel {vmodel}: {why}"
                raise CallError(Status.FAILED_PRECONDITION, message)

    async def _read(self, vmodel: VModelId) -> StoredVModel | None:
        with reading():
            return await self._plane.vmodels.read(vmodel)

    def _vmodel(self, item: KeyValue) -> pb.VModel | None:
        parsed = self._plane.keys.parse(item.key)
        assert isinstance(parsed, VModelKey)
        try:
            return describe(parsed.vmodel, VModelRecord.decode(item.value))
        except RecordError:
            return None


def describe(vmodel: VModelId, record: VModelRecord) -> pb.VModel:
    """A vmodel, from its record."""
    return pb.VModel(
        id=vmodel,
        active_model_id=record.active,
        target_model_id=record.target,
        failed=record.failed,
        owner=record.owner,
        split=[pb.Share(model_id=model, percent=percent) for model, percent in record.split],
        labels=[pb.Label(label=label, model_id=model) for label, model in record.labels],
        keep=record.keep,
        kept_model_ids=record.kept,
        fallback_model_id=record.fallback or "",
        shadow=_shadow(record.shadow),
        rollout=_rollout(record.rollout),
    )


def _shadow(shadow: Shadow | None) -> pb.Shadow | None:
    return (
        None if shadow is None else pb.Shadow(model_id=shadow.model, percent=shadow.percent, compares=shadow.compares)
    )


_STATES = {
    RolloutState.RUNNING: pb.Rollout.RUNNING,
    RolloutState.PROMOTED: pb.Rollout.PROMOTED,
    RolloutState.ROLLED_BACK: pb.Rollout.ROLLED_BACK,
}


def _rollout(rollout: Rollout | None) -> pb.Rollout | None:
    if rollout is None:
        return None
    return pb.Rollout(
        model_id=rollout.model,
        steps=rollout.steps,
        minimum_calls=rollout.minimum_calls,
        minimum_ms=rollout.minimum_ms,
        error_hundredths=rollout.error_hundredths,
        slower_percent=rollout.slower_percent,
        step=rollout.step,
        since_ms=rollout.since_ms,
        state=_STATES[rollout.state],
        why=rollout.why,
    )
