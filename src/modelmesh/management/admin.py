"""`modelmesh.v1.Admin`: what people and consoles ask of a cluster."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.control.view.keys import RegistryKey
from modelmesh.control.view.records import Stored
from modelmesh.management.calls import Call, CallError, Method, named_model, page_size, repeatable
from modelmesh.management.explain import explain, fit, wire_event
from modelmesh.management.models import not_registered, read_record, refuse_read_only
from modelmesh.management.rights import Need
from modelmesh.policy.waiting import common_load_ms, wait_ms
from modelmesh.ports import Compare, Delete, Get, KeyValue, Put, Transaction
from modelmesh.values import bounds
from modelmesh.values.access import Kind, Verb
from modelmesh.values.events import Event
from modelmesh.values.ids import ModelId, Revision, VModelId
from modelmesh.values.memory import Memory
from modelmesh.values.records import ModelRecord
from modelmesh.values.status import Status
from modelmesh.values.stored import RecordError

WATCHERS = 16
"""Who may watch events at a time. Each costs something with every event, and up to 4 MB while it does not read; one that
reads too slowly for that is ended by the data plane."""

EVENTS_QUEUED = 1024
"""Events a slow reader may lag behind; older ones are dropped, and it gets their number."""


class Admin:
    """Handlers of the service."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._watchers = 0

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {
            "modelmesh.v1.Admin/ListModels": Method(pb.ListModelsRequest, self.list_models),
            "modelmesh.v1.Admin/UnloadModel": Method(pb.UnloadModelRequest, self.unload_model),
            "modelmesh.v1.Admin/SetCopies": Method(pb.SetCopiesRequest, self.set_copies),
            "modelmesh.v1.Admin/ListInstances": Method(pb.ListInstancesRequest, self.list_instances),
            "modelmesh.v1.Admin/Explain": Method(pb.ExplainRequest, self.explain),
            "modelmesh.v1.Admin/Fit": Method(pb.FitRequest, self.fit),
            "modelmesh.v1.Admin/WatchEvents": Method(pb.WatchEventsRequest, streaming=self.watch_events),
        }

    async def list_models(self, call: Call, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        """A page of registered models, ordered by id."""
        keys = self._plane.keys
        page = await self._plane.store.range(
            keys.registry + request.prefix,
            start_after=keys.registry + request.page_token if request.page_token else "",
            limit=page_size(request.page_size),
        )
        models = [self._model(item) for item in page.items]
        return pb.ListModelsResponse(
            models=[model for model in models if model is not None and call.sees(Kind.MODEL, model.id)],
            next_page_token=page.items[-1].key.removeprefix(keys.registry) if page.more else "",
        )

    async def unload_model(self, _: Call, request: pb.UnloadModelRequest) -> pb.UnloadModelResponse:
        """Delete the keys of a model's copies, which orders their holders to unload them."""
        model = named_model(request.model_id)
        copies = self._plane.keys.copies_of(model)
        result = await self._plane.store.transact(
            Transaction(
                compares=(Compare(self._plane.keys.model(model), "create", ">", 0),),
                then=(Get(copies, prefix=True), Delete(copies, prefix=True)),
            )
        )
        if not result.succeeded:
            raise not_registered(model)
        found = result.answers[0]
        assert isinstance(found, tuple)
        return pb.UnloadModelResponse(instance_ids=[item.key.removeprefix(copies) for item in found])

    async def set_copies(self, _: Call, request: pb.SetCopiesRequest) -> pb.Model:
        """Write what is wanted into the model's record; the copies follow within seconds."""
        model = named_model(request.model_id)
        while True:
            registered = await read_record(self._plane.models, model, fresh=True)
            if registered is None:
                raise not_registered(model)
            record = registered.record
            wanted = replace(
                record,
                minimum_copies=request.minimum if request.HasField("minimum") else record.minimum_copies,
                maximum_copies=request.maximum if request.HasField("maximum") else record.maximum_copies,
                pinned=request.pinned if request.HasField("pinned") else record.pinned,
            )
            if 0 < wanted.maximum_copies < wanted.minimum_copies:
                raise CallError(
                    Status.INVALID_ARGUMENT,
                    f"minimum {wanted.minimum_copies} is above maximum {wanted.maximum_copies} of model {model}",
                )
            refuse_read_only(self._plane.limits.read_only)
            key, began = self._plane.keys.model(model), self._plane.models.listings
            result = await self._plane.store.transact(
                Transaction(
                    compares=(Compare(key, "mod", "==", registered.mod_revision),),
                    then=(Put(key, wanted.encode()),),
                )
            )
            if result.succeeded:
                break
        self._plane.models.wrote(model, Stored(wanted, registered.create_revision, result.revision), began=began)
        self._plane.journal.note(
            "copies_set", model, detail=f"{wanted.minimum_copies} to {wanted.maximum_copies or 'any number'}"
        )
        await self._plane.scaler.keep_minimum((model,))
        return self._describe(model, wanted, registered.create_revision)

    async def explain(self, call: Call, request: pb.ExplainRequest) -> pb.ExplainResponse:
        """Explain why a model is where it is."""
        model = named_model(request.model_id)
        vmodel = ""
        registered = await read_record(self._plane.models, model, fresh=True)
        if registered is None and (named := await self._plane.vmodels.read(VModelId(model))) is not None:
            call.require(Need(Verb.STATUS, model, (Kind.VMODEL,)))
            vmodel, model = model, named.record.active
            registered = await read_record(self._plane.models, model, fresh=True)
        elif registered is not None:
            call.require(Need(Verb.STATUS, model))
        if registered is None:
            raise not_registered(model)
        answer = await explain(self._plane, model, registered, dry_run=request.dry_run)
        answer.vmodel_id = vmodel
        answer.model.CopyFrom(self._describe(model, registered.record, registered.create_revision))
        return answer

    async def fit(self, _: Call, request: pb.FitRequest) -> pb.FitResponse:
        """Answer where a model of a size would be loaded."""
        if not 0 < request.size_bytes <= bounds.BYTES.most:
            raise CallError(
                Status.INVALID_ARGUMENT, f"size_bytes is {request.size_bytes}: 1 to {bounds.BYTES.most} are possible"
            )
        return await fit(self._plane, Memory(request.size_bytes), request.type)

    async def list_instances(self, _: Call, request: pb.ListInstancesRequest) -> pb.ListInstancesResponse:
        """The members, as this instance sees them."""
        del request
        view = self._plane.decider.cluster_view()
        return pb.ListInstancesResponse(
            instances=[
                pb.Instance(
                    id=entry.instance,
                    address=entry.record.address,
                    capacity_bytes=entry.record.capacity.bytes,
                    used_bytes=entry.record.used.bytes,
                    copies=entry.record.copies,
                    loads_in_progress=view.loads_at(entry),
                    loads_waiting=max(0, view.loads_at(entry) - entry.record.loading_slots),
                    expected_wait_ms=wait_ms(entry, view.loads_at(entry), common_ms=common_load_ms(view)),
                    draining=entry.record.draining,
                    reachable=entry.reachable,
                    zone=entry.record.zone,
                    labels=entry.record.labels,
                    calls_per_minute=entry.record.busyness,
                    calls_at_once_hundredths=entry.record.at_once,
                    worth_ms_per_gib=entry.record.worth,
                )
                for entry in view.instances
            ]
        )

    async def watch_events(self, call: Call, requests: AsyncIterator[pb.WatchEventsRequest]) -> None:
        """Send the events of this instance until the caller ends the call."""
        request = await anext(requests, None)
        if request is None:
            raise CallError(Status.INTERNAL, "Half-closed without a request")
        if self._watchers >= WATCHERS:
            raise repeatable(
                Status.RESOURCE_EXHAUSTED, f"{WATCHERS} others watch the events of this instance; try again"
            )
        queue: asyncio.Queue[Event] = asyncio.Queue(EVENTS_QUEUED)
        lost = 0

        def take(event: Event) -> None:
            nonlocal lost
            if request.model_id and event.model != request.model_id:
                return
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                lost += 1

        unsubscribe = self._plane.journal.subscribe(take)
        self._watchers += 1
        try:
            while True:
                event = await queue.get()
                call.send(wire_event(event))
                if lost:
                    call.send(pb.Event(time_ms=event.time_ms, kind="events_lost", detail=f"{lost} events were lost"))
                    lost = 0
        finally:
            self._watchers -= 1
            unsubscribe()

    def _model(self, item: KeyValue) -> pb.Model | None:
        parsed = self._plane.keys.parse(item.key)
        assert isinstance(parsed, RegistryKey)
        try:
            record = ModelRecord.decode(item.value)
        except RecordError:
            return pb.Model(id=parsed.model, type="(unreadable record)")
        return self._describe(parsed.model, record, item.create_revision)

    def _describe(self, model: ModelId, record: ModelRecord, create_revision: Revision) -> pb.Model:
        view = self._plane.decider.model_view(model, None)
        return pb.Model(
            id=model,
            type=record.type,
            path=record.path,
            last_use_ms=0 if record.unused else record.last_use_ms,
            minimum_copies=record.minimum_copies,
            maximum_copies=record.maximum_copies,
            pinned=record.pinned,
            copies=[
                pb.Copy(
                    instance_id=copy.instance,
                    state=pb.Copy.LOADED if copy.ready else pb.Copy.LOADING,
                    since_ms=copy.since_ms,
                    size_bytes=copy.size.bytes,
                )
                for copy in view.copies
                if copy.belongs_to(create_revision)
            ],
            failures=[
                pb.Failure(
                    instance_id=failure.instance,
                    message=failure.record.message,
                    since_ms=failure.record.since_ms,
                    until_ms=failure.record.until_ms,
                )
                for failure in view.failures
                if failure.record.record_revision == create_revision
            ],
        )
