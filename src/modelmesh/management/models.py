"""`mmesh.ModelMesh`: registration, status and loading of models.

Rules, statuses and texts are those of the archived Java project; clients match on them.
Source: `spec/api-config-tests.md` 1.4, `spec/cluster-state.md` 11.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.control.view.records import RecordCache, Registered
from modelmesh.control.view.tenants import OverQuotaError
from modelmesh.management.calls import Call, CallError, Method, reading, repeatable
from modelmesh.ports import Compare, Delete, PeerState, Put, Transaction
from modelmesh.values.ids import ModelId
from modelmesh.values.legacy import full_names
from modelmesh.values.records import ModelRecord
from modelmesh.values.status import Status
from modelmesh.values.view import ModelView

HOUR_MS = 3_600_000
LONGEST_ID = 2_048
"""Characters of an id; the store's keys and the header limits of clients bound it anyway."""

LARGEST_FIELDS = {"type": 2_048, "path": 8_192, "key": 65_536}
"""Bytes of each field of a modelInfo. Every instance that looks at a model holds its record, and so does the store."""

_Info = pb.ModelStatusInfo


class Models:
    """Handlers of the model half of the service."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def methods(self) -> Mapping[str, Method]:
        """By full name, old names included."""
        methods = {
            "registerModel": Method(pb.RegisterModelRequest, self.register),
            "unregisterModel": Method(pb.UnregisterModelRequest, self.unregister),
            "getModelStatus": Method(pb.GetStatusRequest, self.status),
            "ensureLoaded": Method(pb.EnsureLoadedRequest, self.ensure_loaded),
        }
        return {name: method for current, method in methods.items() for name in full_names(current)}

    # --- handlers -------------------------------------------------------------------------------

    async def register(self, call: Call, request: pb.RegisterModelRequest) -> pb.ModelStatusInfo:
        """Create the record if it is new; with `loadNow` continue as ensureLoaded."""
        model = _checked_id(request.modelId)
        info = request.modelInfo
        check_info(info)
        now_ms = self._plane.clock.now_ms()
        if request.lastUsedTime > 0:
            last_use_ms = min(request.lastUsedTime, now_ms)
        else:
            last_use_ms = now_ms - (HOUR_MS if request.loadNow else 6 * HOUR_MS)
        wanted = ModelRecord(
            type=info.type,
            path=info.path,
            key=info.key,
            last_use_ms=last_use_ms,
            unused=request.lastUsedTime == 0,
            tenant=call.tenant,
        )
        registered, created = await self._create(model, wanted)
        if not created and not registered.record.same_attributes(wanted):
            raise CallError(Status.ALREADY_EXISTS, "Model already exists with different attribute values")
        if request.loadNow:
            return await self._load(
                model, registered, last_use_ms=last_use_ms, sync=request.sync, balanced=_balanced(call)
            )
        if created:
            return _Info(status=_Info.NOT_LOADED)
        if last_use_ms > registered.record.last_use_ms + HOUR_MS and not self._plane.limits.read_only:
            await self._raise_last_use(model, registered, last_use_ms)
        return self._info(model, registered)

    async def unregister(self, _: Call, request: pb.UnregisterModelRequest) -> pb.UnregisterModelResponse:
        """Delete the record; holders unload when they see it."""
        model = _checked_id(request.modelId)
        while True:
            registered = await self.read(model, fresh=True)
            if registered is None:
                return pb.UnregisterModelResponse()
            if registered.record.references > 0:
                raise CallError(Status.FAILED_PRECONDITION, f"Model {model} has referents")
            refuse_read_only(self._plane.limits.read_only)
            key, tenant = self._plane.keys.model(model), registered.record.tenant
            deletions = (Delete(key), *((Delete(self._plane.keys.tenant_model(tenant, model)),) if tenant else ()))
            result = await self._plane.store.transact(
                Transaction(compares=(Compare(key, "mod", "==", registered.mod_revision),), then=deletions)
            )
            self._plane.models.forget(model)
            if result.succeeded:
                self._plane.journal.note("unregistered", model)
                return pb.UnregisterModelResponse()

    async def status(self, _: Call, request: pb.GetStatusRequest) -> pb.ModelStatusInfo:
        """Answer with the status; never loads, never counts as a use."""
        return await self.info(_checked_id(request.modelId))

    async def ensure_loaded(self, call: Call, request: pb.EnsureLoadedRequest) -> pb.ModelStatusInfo:
        """Make sure of a copy, and count that as a use. A failed load is an answer, not an error.

        Remembered failures are answered without a load, unless the caller asks to try again (`mm-retry: true`).
        """
        model = _checked_id(request.modelId)
        registered = await self.read(model)
        if registered is None:
            raise CallError(Status.NOT_FOUND, "model not found")
        now_ms = self._plane.clock.now_ms()
        last_use_ms = min(request.lastUsedTime, now_ms) or now_ms
        return await self._load(
            model,
            registered,
            last_use_ms=last_use_ms,
            sync=request.sync,
            balanced=_balanced(call),
            retry=call.headers.get("mm-retry") == b"true",
        )

    # --- parts ----------------------------------------------------------------------------------

    async def _load(
        self,
        model: ModelId,
        registered: Registered,
        *,
        last_use_ms: int,
        sync: bool,
        balanced: bool,
        retry: bool = False,
    ) -> pb.ModelStatusInfo:
        stamp = max(last_use_ms, registered.record.last_use_ms)
        ensured = await self._plane.requests.ensure(
            model, registered, last_use_ms=stamp, sync=sync, balanced=balanced, retry=retry, used=True
        )
        if ensured.store_away:
            raise repeatable(Status.UNAVAILABLE, ensured.message)
        match ensured.state:
            case PeerState.REFUSED:
                return _Info(status=_Info.NOT_FOUND)
            case PeerState.FAILED:
                info = self._info(model, registered)
                info.status = _Info.LOADING_FAILED
                if ensured.message and ensured.message not in info.errors:
                    info.errors.insert(0, ensured.message)
                return info
            case PeerState.LOADED | PeerState.LOADING:
                info = self._info(model, registered)
                info.status = _Info.LOADED if ensured.state is PeerState.LOADED else _Info.LOADING
                return info

    async def _create(self, model: ModelId, wanted: ModelRecord) -> tuple[Registered, bool]:
        """Put the record if there is none; returns the standing one and whether it is ours."""
        if self._plane.limits.read_only:
            standing = await self.read(model, fresh=True)
            if standing is None:
                raise CallError(Status.INTERNAL, f"Failed to add model {model}")
            return standing, False
        tenants, tenant = self._plane.tenants, wanted.tenant
        with reading():
            if not tenant:
                registered, created = await self._plane.models.create(model, wanted)
            elif (standing := await self._plane.models.get(model)) is not None:
                return standing, False
            else:
                with within_quota(), tenants.registration(tenant):
                    index = Put(self._plane.keys.tenant_model(tenant, model), b"")
                    registered, created = await self._plane.models.create(model, wanted, index)
                    if created:
                        tenants.wrote(tenant, model, registered.create_revision)
        if created:
            self._plane.journal.note("registered", model)
        return registered, created

    async def _raise_last_use(self, model: ModelId, registered: Registered, last_use_ms: int) -> None:
        """Best effort: another write of the record takes precedence."""
        key = self._plane.keys.model(model)
        record = replace(registered.record, last_use_ms=last_use_ms)
        await self._plane.store.transact(
            Transaction(
                compares=(Compare(key, "mod", "==", registered.mod_revision),), then=(Put(key, record.encode()),)
            )
        )

    async def ensure(self, model: ModelId, *, last_use_ms: int, sync: bool) -> pb.ModelStatusInfo:
        """As ensureLoaded, from within; NOT_FOUND is an answer."""
        registered = await self.read(model)
        if registered is None:
            return _Info(status=_Info.NOT_FOUND)
        return await self._load(model, registered, last_use_ms=last_use_ms, sync=sync, balanced=False)

    async def info(self, model: ModelId) -> pb.ModelStatusInfo:
        """A model's status; never loads."""
        registered = await self.read(model)
        return self._info(model, registered) if registered is not None else _Info(status=_Info.NOT_FOUND)

    async def read(self, model: ModelId, *, fresh: bool = False) -> Registered | None:
        """The record, or None; `fresh`: past the cache. Raises CallError."""
        return await read_record(self._plane.models, model, fresh=fresh)

    def _info(self, model: ModelId, registered: Registered) -> pb.ModelStatusInfo:
        return describe(self._plane.decider.model_view(model, registered), now_ms=self._plane.clock.now_ms())


async def read_record(models: RecordCache[ModelId, ModelRecord], model: ModelId, *, fresh: bool) -> Registered | None:
    """A model's record, or None; `fresh`: past the cache. Raises CallError."""
    with reading():
        return await (models.read(model) if fresh else models.get(model))


@contextmanager
def within_quota() -> Iterator[None]:
    """Refuse a caller whose tenant has as many models as it may have."""
    try:
        yield
    except OverQuotaError as error:
        raise CallError(Status.RESOURCE_EXHAUSTED, str(error)) from error


def not_registered(model: ModelId) -> CallError:
    """The error of who asks about a model that does not exist."""
    return CallError(Status.NOT_FOUND, f"model {model} is not registered; `modelmesh models list` shows those that are")


def refuse_read_only(read_only: bool) -> None:  # noqa: FBT001 - the setting of that name
    """Raise CallError if nothing may be changed."""
    if read_only:
        raise CallError(Status.INTERNAL, "model-mesh read-only mode")


def describe(view: ModelView, *, now_ms: int) -> pb.ModelStatusInfo:
    """A model's status from its copies and the failures that are still believed, newest first."""
    failures = [failure for failure in view.failures if failure.record.believed(now_ms)]
    if any(copy.ready for copy in view.copies):
        status = _Info.LOADED
    elif view.copies:
        status = _Info.LOADING
    elif failures:
        status = _Info.LOADING_FAILED
    else:
        return _Info(status=_Info.NOT_LOADED)
    copies = [
        _Info.ModelCopyInfo(
            location=copy.instance,
            copyStatus=_Info.LOADED if copy.ready else _Info.LOADING,
            time=copy.since_ms,
        )
        for copy in view.copies
    ] + [
        _Info.ModelCopyInfo(location=failure.instance, copyStatus=_Info.LOADING_FAILED, time=failure.record.since_ms)
        for failure in failures
    ]
    newest = sorted(failures, key=lambda failure: -failure.record.since_ms)
    return _Info(
        status=status,
        errors=[failure.record.message for failure in newest],
        modelCopyInfos=sorted(copies, key=lambda copy: -copy.time),
    )


def check_info(info: pb.ModelInfo) -> None:
    """Raise CallError if this cannot be registered."""
    if not info.type:
        raise CallError(Status.INVALID_ARGUMENT, "Must provide non-empty model type string")
    for name, most in LARGEST_FIELDS.items():
        size = len(getattr(info, name).encode())
        if size > most:
            raise CallError(Status.INVALID_ARGUMENT, f"modelInfo.{name} has {size} bytes, {most} are allowed")


def _balanced(call: Call) -> bool:
    return call.headers.get("mm-balanced") == b"true"


def _checked_id(model: str) -> ModelId:
    if not model:
        raise CallError(Status.INVALID_ARGUMENT, "must provide non-empty modelId")
    if len(model) > LONGEST_ID:
        raise CallError(Status.INVALID_ARGUMENT, f"modelId has {len(model)} characters, {LONGEST_ID} are allowed")
    return ModelId(model)
