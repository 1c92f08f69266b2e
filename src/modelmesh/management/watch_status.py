"""`modelmesh.v1.Admin/WatchStatus`: the statuses of vmodels and models, all of them and then each change.

A stream keeps names, not statuses: what changes while the reader is busy is read once, when the reader is ready for it. So a
slow reader misses intermediate states, never the last one, and the memory of a stream is bounded by the number of vmodels.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as mesh
from modelmesh.control.plane import ControlPlane
from modelmesh.control.view.keys import RegistryKey, VModelKey
from modelmesh.control.view.touched import Touch
from modelmesh.management.calls import Call, CallError, Method, repeatable
from modelmesh.management.statuses import read_models, read_vmodels
from modelmesh.ports import KeyValue
from modelmesh.values.ids import ModelId, Revision, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.status import Status
from modelmesh.values.stored import RecordError

STREAMS = 8
"""Who may watch statuses at a time. Each keeps the names of all vmodels and of their models."""

WINDOW = 4
"""Answers that may be on their way without being acknowledged."""

PART = 100
"""Statuses in one answer: some 50 kB."""

PAGE = 1_000
"""Names in one page of a listing."""

GATHER_MS = 20
"""After a change others are waited for this long, so that a burst is read in batches."""

SILENCE_S = 30.0
"""Without any change an empty answer is sent, so that the reader knows that the stream works."""

READ_BOUND_S = 60.0
"""A reader that acknowledges nothing for so long is given up."""

Name = TypeVar("Name")


class WatchStatus:
    """The handler of the method."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._streams = 0

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {"modelmesh.v1.Admin/WatchStatus": Method(pb.WatchStatusRequest, streaming=self.watch)}

    async def watch(self, call: Call, requests: AsyncIterator[pb.WatchStatusRequest]) -> None:
        """Send statuses until the caller ends the call."""
        request = await anext(requests, None)
        if request is None:
            raise CallError(Status.INTERNAL, "Half-closed without a request")
        if self._streams >= STREAMS:
            raise repeatable(Status.RESOURCE_EXHAUSTED, f"{STREAMS} others watch the statuses here; try again")
        stream = _Stream(self._plane, call, request)
        unsubscribe = self._plane.touched.subscribe(stream.take)
        self._streams += 1
        reading = self._plane.tasks.start(stream.acknowledge(requests), "read acknowledgements")
        try:
            await stream.run()
        finally:
            self._streams -= 1
            unsubscribe()
            reading.cancel()


class _Stream:
    """One reader: the vmodels that were sent to it, and the names that must still be sent."""

    def __init__(self, plane: ControlPlane, call: Call, request: pb.WatchStatusRequest) -> None:
        self._plane = plane
        self._call = call
        self._owners = frozenset(request.owners)
        self._with_models = request.models
        self._asked = Revision(request.revision)
        self._revision = Revision(0)
        self._known: dict[VModelId, tuple[ModelId, ModelId]] = {}
        """The active and the target model of each vmodel that the reader was reported."""
        self._vmodels_of: dict[ModelId, dict[VModelId, None]] = {}
        self._pending = Touch()
        self._relist = False
        self._number = 0
        self._acknowledged = 0
        self._half_closed = False
        self._refusal: CallError | None = None
        self._wake = asyncio.Event()

    def take(self, touch: Touch | None) -> None:
        """Something changed; None: anything may have."""
        if touch is None:
            self._relist = True
        else:
            self._pending.models.update(touch.models)
            self._pending.vmodels.update(touch.vmodels)
        self._wake.set()

    async def acknowledge(self, requests: AsyncIterator[pb.WatchStatusRequest]) -> None:
        """Read what the reader acknowledges. After its half-close only the data plane bounds what is unread."""
        try:
            async for request in requests:
                self._acknowledged = max(self._acknowledged, min(request.acknowledged, self._number))
                self._wake.set()
        except CallError as error:  # a message that cannot be read
            self._refusal = error
        self._half_closed = True
        self._wake.set()

    async def run(self) -> None:
        """Send everything, or what changed since the revision that was asked for; then changes. Raises StoreError."""
        touch = self._plane.touched.since(self._asked) if self._asked else None
        if touch is None:
            await self._snapshot()
        else:
            self._revision = self._asked
            await self._continue(touch)
        while True:
            if not await self._changed():
                await self._room()
                self._send(pb.StatusUpdate.CHANGES)
                continue
            await self._plane.clock.sleep(GATHER_MS)
            await self._room()
            if self._relist:
                await self._snapshot()
            else:
                await self._changes()

    async def _changed(self) -> bool:
        """Wait for a change; False if there is none for a while."""
        return await self._until(
            lambda: self._relist or bool(self._pending.models or self._pending.vmodels), bound_s=SILENCE_S
        )

    async def _until(self, condition: Callable[[], bool], *, bound_s: float) -> bool:
        """Wait until something is so; False: it was not within `bound_s`. Raises what is wrong with a request."""
        try:
            async with asyncio.timeout(bound_s):
                while not condition():
                    if self._refusal is not None:
                        raise self._refusal
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            return False
        return True

    # --- everything -------------------------------------------------------------------------------

    async def _snapshot(self) -> None:
        """Send all there is. What changes meanwhile is sent after it."""
        self._relist, self._pending = False, Touch()
        revision = self._plane.state.revision
        self._known.clear()
        self._vmodels_of.clear()
        async for vmodels in self._pages(self._plane.keys.vmodels):
            for part in _parts([VModelId(item.key.removeprefix(self._plane.keys.vmodels)) for item in vmodels]):
                await self._room()
                self._send(pb.StatusUpdate.SNAPSHOT, vmodels=await self._read_vmodels(part))
        if self._with_models:
            async for models in self._pages(self._plane.keys.registry):
                for registered in _parts(
                    [ModelId(item.key.removeprefix(self._plane.keys.registry)) for item in models]
                ):
                    await self._room()
                    self._send(pb.StatusUpdate.SNAPSHOT, models=await read_models(self._plane, registered))
        self._revision = revision
        await self._room()
        self._send(pb.StatusUpdate.SNAPSHOT_END)

    async def _continue(self, touch: Touch) -> None:
        """Learn which vmodels there are, and take in what changed since the reader's last stream."""
        self.take(touch)
        async for page in self._pages(self._plane.keys.vmodels):
            for item in page:
                vmodel = VModelId(item.key.removeprefix(self._plane.keys.vmodels))
                try:
                    record = VModelRecord.decode(item.value)
                except RecordError:
                    continue
                if not self._owners or record.owner in self._owners:
                    self._know(vmodel, record)

    async def _pages(self, prefix: str) -> AsyncIterator[list[KeyValue]]:
        after = ""
        while True:
            page = await self._plane.store.range(prefix, start_after=after, limit=PAGE)
            yield [item for item in page.items if isinstance(self._plane.keys.parse(item.key), VModelKey | RegistryKey)]
            if not page.more:
                return
            after = page.items[-1].key

    # --- changes ----------------------------------------------------------------------------------

    async def _changes(self) -> None:
        """Send the present statuses of all names that were touched."""
        touch, self._pending = self._pending, Touch()
        revision = self._plane.state.revision
        vmodels = touch.vmodels
        for model in touch.models:
            vmodels.update(self._vmodels_of.get(model, {}))
        for names in _parts(list(vmodels)):
            await self._room()
            if statuses := await self._read_vmodels(names):
                self._send(pb.StatusUpdate.CHANGES, vmodels=statuses)
        if self._with_models:
            for models in _parts(list(touch.models)):
                await self._room()
                self._send(pb.StatusUpdate.CHANGES, models=await read_models(self._plane, models))
        self._revision = revision

    async def _read_vmodels(self, names: Collection[VModelId]) -> list[pb.VModelStatus]:
        """The statuses to send to the reader: those of its owners, and removed vmodels."""
        records, statuses = await read_vmodels(self._plane, names)
        answered = []
        for status in statuses:
            name = VModelId(status.id)
            stored = records.get(name)
            if stored is None or (self._owners and stored.record.owner not in self._owners):
                status.status.CopyFrom(mesh.VModelStatusInfo(status=mesh.VModelStatusInfo.NOT_FOUND))
                self._forget(name)
                if stored is None:
                    answered.append(status)
            else:
                self._know(name, stored.record)
                answered.append(status)
        return answered

    def _know(self, name: VModelId, record: VModelRecord) -> None:
        self._forget(name)
        self._known[name] = (record.active, record.target)
        for model in self._known[name]:
            self._vmodels_of.setdefault(model, {})[name] = None

    def _forget(self, name: VModelId) -> None:
        for model in self._known.pop(name, ()):
            of = self._vmodels_of.get(model, {})
            of.pop(name, None)
            if not of:
                self._vmodels_of.pop(model, None)

    # --- sending ----------------------------------------------------------------------------------

    async def _room(self) -> None:
        """Wait until the reader takes one more answer; only then is it read. Raises CallError(RESOURCE_EXHAUSTED)."""
        if not await self._until(
            lambda: self._half_closed or self._number - self._acknowledged < WINDOW, bound_s=READ_BOUND_S
        ):
            message = f"the reader acknowledged none of {WINDOW} answers for {READ_BOUND_S:.0f} s"
            raise CallError(Status.RESOURCE_EXHAUSTED, message)

    def _send(
        self,
        part: pb.StatusUpdate.Part.ValueType,
        *,
        vmodels: Collection[pb.VModelStatus] = (),
        models: Collection[pb.ModelStatus] = (),
    ) -> None:
        self._number += 1
        self._call.send(
            pb.StatusUpdate(number=self._number, part=part, revision=self._revision, vmodels=vmodels, models=models)
        )


def _parts(names: list[Name]) -> Iterator[list[Name]]:
    rest = iter(names)
    while part := list(islice(rest, PART)):
        yield part
