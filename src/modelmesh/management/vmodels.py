"""`mmesh.ModelMesh`: the vmodel half of the service.

Rules, statuses and texts are those of the archived Java project, without its leaked references and
lost statuses. Source: `spec/cluster-state.md` 10, `spec/api-config-tests.md` 1.4.
"""

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.control.view.records import Registered
from modelmesh.control.view.vmodels import StoredVModel
from modelmesh.management.calls import Call, CallError, Method, reading
from modelmesh.management.models import HOUR_MS, LONGEST_ID, Models, check_info, within_quota
from modelmesh.policy.promotion import Promote, promote
from modelmesh.policy.retarget import Retarget, RetargetReason, RetargetRefused, retarget
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.legacy import full_names
from modelmesh.values.records import ModelRecord, VModelRecord
from modelmesh.values.status import Status
from modelmesh.values.view import ModelView

SYNC_BOUND_MS = 240_000
"""How long a setVModel with `sync` waits for its transition."""

WRITES = 64
"""How often a write may lose the race against others before the caller must repeat the call."""

_Info = pb.ModelStatusInfo
_VInfo = pb.VModelStatusInfo


class VModelCalls:
    """Handlers of the vmodel half of the service."""

    def __init__(self, plane: ControlPlane, models: Models) -> None:
        self._plane = plane
        self._models = models

    def methods(self) -> Mapping[str, Method]:
        """By full name, the legacy service included."""
        methods = {
            "setVModel": Method(pb.SetVModelRequest, self.set_vmodel),
            "deleteVModel": Method(pb.DeleteVModelRequest, self.delete_vmodel),
            "getVModelStatus": Method(pb.GetVModelStatusRequest, self.vmodel_status),
        }
        return {name: method for current, method in methods.items() for name in full_names(current)}

    # --- handlers -------------------------------------------------------------------------------

    async def set_vmodel(self, call: Call, request: pb.SetVModelRequest) -> pb.VModelStatusInfo:
        """Create a vmodel or move it; with `sync` wait until it has moved."""
        vmodel = checked_vmodel(request.vModelId)
        if not request.targetModelId:
            raise CallError(Status.INVALID_ARGUMENT, f"Must provide target modelId for vmodel {vmodel}")
        if len(request.targetModelId) > LONGEST_ID:
            raise CallError(Status.INVALID_ARGUMENT, f"targetModelId is longer than {LONGEST_ID} characters")
        described = request.HasField("modelInfo") and request.modelInfo != pb.ModelInfo()
        if described:
            check_info(request.modelInfo)
        record, active_copies = await self._write(vmodel, request, described=described, tenant=call.tenant)
        if record.active != record.target:
            if request.sync:
                return await self._until_settled(vmodel, record)
            return await self._status(vmodel, record)
        target_status = None
        if active_copies or request.loadNow:
            target_status = await self._models.ensure(
                record.target,
                last_use_ms=self._plane.clock.now_ms() - (HOUR_MS if request.loadNow else 6 * HOUR_MS),
                sync=request.sync,
            )
        return await self._status(vmodel, record, active_status=target_status)

    async def delete_vmodel(self, _: Call, request: pb.DeleteVModelRequest) -> pb.DeleteVModelResponse:
        """Delete a vmodel; one that is absent, or of another owner, is left as it is."""
        vmodel = checked_vmodel(request.vModelId)
        for _attempt in range(WRITES):
            found = await self._read(vmodel)
            if found is None or (request.owner and request.owner != found.record.owner):
                return pb.DeleteVModelResponse()
            self._refuse_read_only()
            if await self._plane.vmodels.write(vmodel, found, None) is not None:
                return pb.DeleteVModelResponse()
        raise contended(vmodel)

    async def vmodel_status(self, _: Call, request: pb.GetVModelStatusRequest) -> pb.VModelStatusInfo:
        """Answer with the status; an absent vmodel, or one of another owner, is NOT_FOUND."""
        vmodel = checked_vmodel(request.vModelId)
        found = await self._read(vmodel)
        if found is None or (request.owner and request.owner != found.record.owner):
            return _VInfo(status=_VInfo.NOT_FOUND)
        return await self._status(vmodel, found.record)

    # --- writing --------------------------------------------------------------------------------

    async def _write(
        self, vmodel: VModelId, request: pb.SetVModelRequest, *, described: bool, tenant: str
    ) -> tuple[VModelRecord, int]:
        """Decide on the present record and write; again if another writer was faster. The record, and copies of the active model."""
        target = ModelId(request.targetModelId)
        call = Retarget(
            vmodel,
            target,
            update_only=request.updateOnly,
            force=request.force,
            expected=request.expectedTargetModelId,
            owner=request.owner,
        )
        for _attempt in range(WRITES):
            existing = await self._read(vmodel)
            registered = await self._models.read(target)
            self._check_target(request, registered, described=described)
            active_copies, may_switch = await self._parity(existing, target, registered)
            decided = retarget(
                call,
                existing.record if existing is not None else None,
                may_switch=may_switch,
                default_owner=self._plane.limits.default_vmodel_owner,
            )
            if isinstance(decided, RetargetRefused):
                raise CallError(decided.status, decided.message)
            if decided.reason is not RetargetReason.UNCHANGED:
                self._refuse_read_only()
            last_use_ms = await self._last_use_ms(existing, load_now=request.loadNow)
            created = self._wanted(request, last_use_ms, tenant) if registered is None else None
            counted = self._plane.tenants.registration(tenant) if created is not None and tenant else nullcontext()
            with within_quota(), counted:
                written = await self._plane.vmodels.write(
                    vmodel,
                    existing,
                    decided.record,
                    created={target: created} if created is not None else None,
                    used={target: last_use_ms},
                )
                if written is not None and created is not None:
                    self._plane.tenants.wrote(tenant, target, written.revision)
            if written is not None:
                return decided.record, active_copies
        raise contended(vmodel)

    def _check_target(self, request: pb.SetVModelRequest, registered: Registered | None, *, described: bool) -> None:
        if not described and registered is None:
            raise CallError(Status.NOT_FOUND, f"Target model {request.targetModelId} not found")
        if described and registered is not None and not registered.record.same_attributes(self._wanted(request, 0)):
            message = f"Target model {request.targetModelId} already exists with different attribute values"
            raise CallError(Status.ALREADY_EXISTS, message)

    async def _parity(
        self, existing: StoredVModel | None, target: ModelId, registered: Registered | None
    ) -> tuple[int, bool]:
        """Copies of the active model, and whether the target is as ready as it."""
        if existing is None:
            return 0, True
        decider = self._plane.decider
        active = decider.model_view(existing.record.active, None)
        standing = decider.model_view(target, registered) if registered is not None else ModelView(target)
        ready = sum(copy.ready for copy in standing.copies)
        step = promote(
            active_copies=len(active.copies),
            target_ready=ready,
            target_loading=len(standing.copies) - ready,
            places=len(active.copies),
        )
        return len(active.copies), isinstance(step, Promote)

    async def _last_use_ms(self, existing: StoredVModel | None, *, load_now: bool) -> int:
        """As recently used as the active model, for the cache's order; never back in time."""
        if existing is not None and (active := await self._models.read(existing.record.active)) is not None:
            return active.record.last_use_ms
        return self._plane.clock.now_ms() - (HOUR_MS if load_now else 6 * HOUR_MS)

    @staticmethod
    def _wanted(request: pb.SetVModelRequest, last_use_ms: int, tenant: str = "") -> ModelRecord:
        info = request.modelInfo
        return ModelRecord(
            type=info.type,
            path=info.path,
            key=info.key,
            auto_delete=request.autoDeleteTargetModel,
            last_use_ms=last_use_ms,
            unused=True,
            tenant=tenant,
        )

    def _refuse_read_only(self) -> None:
        if self._plane.limits.read_only:
            raise CallError(Status.UNAVAILABLE, "model-mesh is in read-only mode")

    # --- reading --------------------------------------------------------------------------------

    async def _until_settled(self, vmodel: VModelId, wanted: VModelRecord) -> pb.VModelStatusInfo:
        """Wait until the transition has ended, one way or another."""
        try:
            async with asyncio.timeout(SYNC_BOUND_MS / 1000):
                while True:
                    changed = self._plane.vmodels.next_change(vmodel)
                    try:
                        found = await self._read(vmodel)
                        if found is None:
                            raise CallError(Status.NOT_FOUND, f"vmodel {vmodel} was deleted")
                        record = found.record
                        if record.failed or record.active == record.target or record.target != wanted.target:
                            return await self._status(vmodel, record)
                        await changed
                    finally:
                        changed.cancel()
        except TimeoutError as error:
            message = f"vmodel {vmodel} is still moving to {wanted.target} after {SYNC_BOUND_MS // 1000} s"
            raise CallError(Status.DEADLINE_EXCEEDED, message) from error

    async def _status(
        self, vmodel: VModelId, record: VModelRecord, *, active_status: pb.ModelStatusInfo | None = None
    ) -> pb.VModelStatusInfo:
        if active_status is None:
            active_status = await self._models.info(record.active)
        if active_status.status == _Info.NOT_FOUND and (again := await self._read(vmodel)) is not None:
            # It may just have moved on, and its old model no longer exists.
            record = again.record
            active_status = await self._models.info(record.active)
        answer = status_of_record(record, active_status)
        if record.active != record.target:
            answer.targetModelStatus.CopyFrom(moving_status(record, await self._models.info(record.target)))
        return answer

    async def _read(self, vmodel: VModelId) -> StoredVModel | None:
        with reading():
            return await self._plane.vmodels.read(vmodel)


def status_of_record(record: VModelRecord, active_status: pb.ModelStatusInfo) -> pb.VModelStatusInfo:
    """A vmodel's status, but for the status of a target to which it moves."""
    status = _VInfo.DEFINED
    if record.active != record.target:
        status = _VInfo.TRANSITION_FAILED if record.failed else _VInfo.TRANSITIONING
    return _VInfo(
        status=status,
        activeModelId=record.active,
        targetModelId=record.target,
        owner=record.owner,
        activeModelStatus=active_status,
    )


def moving_status(record: VModelRecord, info: pb.ModelStatusInfo) -> pb.ModelStatusInfo:
    """A target's status: LOADING while the vmodel moves, independent of its copies; LOADING_FAILED if that has failed."""
    if info.status == _Info.NOT_FOUND:
        return info
    failed = record.failed and info.status == _Info.LOADING_FAILED
    moving = _Info(errors=info.errors, modelCopyInfos=info.modelCopyInfos)
    moving.status = _Info.LOADING_FAILED if failed else _Info.LOADING
    return moving


def contended(vmodel: VModelId) -> CallError:
    """The error of who lost every race for the record."""
    message = f"vmodel {vmodel} keeps changing under the call; repeat it"
    return CallError(Status.ABORTED, message)


def checked_vmodel(vmodel: str) -> VModelId:
    """The id of a request. Raises CallError(INVALID_ARGUMENT)."""
    if not vmodel:
        raise CallError(Status.INVALID_ARGUMENT, "Must provide vModelId")
    if len(vmodel) > LONGEST_ID:
        raise CallError(Status.INVALID_ARGUMENT, f"vModelId has {len(vmodel)} characters, {LONGEST_ID} are allowed")
    return VModelId(vmodel)
