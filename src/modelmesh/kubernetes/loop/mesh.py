"""The mesh of one namespace: the statuses of its vmodels as they are streamed, and changes in batches.

One stream from one instance has all statuses. When it breaks, another instance continues it at the revision where it
was, so that a restart of instances costs no listing. What is set is gathered: thousands of vmodels are a few calls.

Instances of the archived Java project have neither, and run on until their pods are replaced: they are asked for the
vmodels of resources, one by one, and in turns. Vmodels without a resource stay unknown meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from random import Random

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as wire
from modelmesh.declared import OWNERS
from modelmesh.kubernetes.ports import MeshCalls, MeshError
from modelmesh.kubernetes.values import MeshCopy, MeshModel, MeshState, MeshTransition, MeshVModel
from modelmesh.ports import Clock
from modelmesh.values.status import Status

BATCH = 200
"""VModels of one call."""

ASKED_AT_ONCE = 16
TURN_MS = 2_000
ASK_MS = 10
"""For instances without that stream: calls at a time, and from one turn to the next, at least and for each vmodel."""

SILENCE_S = 75.0
"""An instance that without news sends an empty message every 30 s."""

PAUSE_MS = 250
PAUSE_MAX_MS = 5_000

_STATES = {
    wire.ModelStatusInfo.NOT_FOUND: MeshState.NOT_FOUND,
    wire.ModelStatusInfo.NOT_LOADED: MeshState.NOT_LOADED,
    wire.ModelStatusInfo.LOADING: MeshState.LOADING,
    wire.ModelStatusInfo.LOADED: MeshState.LOADED,
    wire.ModelStatusInfo.LOADING_FAILED: MeshState.FAILED,
}
_TRANSITIONS = {
    wire.VModelStatusInfo.NOT_FOUND: MeshTransition.NOT_FOUND,
    wire.VModelStatusInfo.DEFINED: MeshTransition.DEFINED,
    wire.VModelStatusInfo.TRANSITIONING: MeshTransition.MOVING,
    wire.VModelStatusInfo.TRANSITION_FAILED: MeshTransition.FAILED,
}


class Mesh:
    """What is known of a mesh.

    Args:
        dial: Opens a connection to an instance.
        resources: The vmodels that resources ask for, and their owners.
        changed: Called for each vmodel whose status changed; None: of the mesh as a whole, which was read for the first time
            or can or cannot be called now.
        failed: Called for each connection that failed.

    Attributes:
        synced: All vmodels are known.
        arrivals: How often instances came. What failed on others may succeed on them.
    """

    def __init__(
        self,
        *,
        dial: Callable[[str], MeshCalls],
        resources: Callable[[], Iterable[tuple[str, str]]],
        clock: Clock,
        rng: Random,
        changed: Callable[[str | None], None],
        failed: Callable[[str, MeshError], object] = lambda _address, _error: None,
    ) -> None:
        self._dial = dial
        self._resources = resources
        self._clock = clock
        self._rng = rng
        self._changed = changed
        self._failed = failed
        self._addresses: tuple[str, ...] = ()
        self._moved = asyncio.Event()
        self._vmodels: dict[str, MeshVModel] = {}
        self._listed: set[str] | None = None
        self._revision = 0
        self._waiting: deque[tuple[wire.SetVModelRequest, asyncio.Future[MeshVModel]]] = deque()
        self._filled = asyncio.Event()
        self._calls: MeshCalls | None = None
        self._streams = True
        """The instance streams statuses and takes batches."""
        self.synced = False
        self.arrivals = 0

    @property
    def reachable(self) -> bool:
        """Whether there is an instance that can be called."""
        return bool(self._addresses)

    def get(self, name: str) -> MeshVModel | None:
        """A vmodel; None if there is none of the name."""
        return self._vmodels.get(name)

    def names(self) -> Iterable[str]:
        """Of all vmodels that come from resources."""
        return tuple(self._vmodels)

    def use(self, addresses: Sequence[str]) -> None:
        """These instances can be called from now on."""
        found = tuple(sorted(set(addresses)))
        if found == self._addresses:
            return
        changed = bool(found) != self.reachable
        came = not set(found) <= set(self._addresses)
        self._addresses = found
        self._moved.set()
        self.arrivals += came
        if changed:
            self._changed(None)
        elif came:
            for name in [name for name, vmodel in self._vmodels.items() if _has_failed(vmodel)]:
                self._changed(name)

    async def run(self) -> None:
        """Follow the mesh until cancelled."""
        pause_ms = PAUSE_MS
        while True:
            while not self._addresses:
                self._moved.clear()
                await self._moved.wait()
            address = self._rng.choice(self._addresses)
            began_ms = self._clock.monotonic_ms()
            try:
                await self._serve(address)
            except MeshError as error:
                self._failed(address, error)
            if self._clock.monotonic_ms() - began_ms > PAUSE_MAX_MS:
                pause_ms = PAUSE_MS
            await self._clock.sleep(pause_ms // 2 + self._rng.randrange(pause_ms // 2))
            pause_ms = min(PAUSE_MAX_MS, pause_ms * 2)

    async def set(self, request: wire.SetVModelRequest) -> MeshVModel:
        """Set a vmodel; its status then. Raises MeshError."""
        if self._calls is None:
            raise MeshError(Status.UNAVAILABLE, "no instance of the mesh can be called")
        future: asyncio.Future[MeshVModel] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._filled.set()
        return await future

    async def delete(self, name: str, owner: str) -> None:
        """Delete a vmodel of an owner, if it is there. Raises MeshError."""
        if self._calls is None:
            raise MeshError(Status.UNAVAILABLE, "no instance of the mesh can be called")
        await self._calls.delete_vmodel(wire.DeleteVModelRequest(vModelId=name, owner=owner))
        self._forget(name)

    async def instances(self) -> tuple[pb.Instance, ...]:
        """The instances of the mesh. Raises MeshError."""
        if self._calls is None:
            raise MeshError(Status.UNAVAILABLE, "no instance of the mesh can be called")
        return tuple((await self._calls.instances()).instances)

    # --- one connection ---------------------------------------------------------------------------

    async def _serve(self, address: str) -> None:
        """Work with one instance until it fails or ends. Raises MeshError."""
        calls = self._calls = self._dial(address)
        self._streams = True
        tasks = [
            asyncio.ensure_future(work) for work in (self._follow(calls), self._send(calls), self._until_gone(address))
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._calls = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            while self._waiting:
                _fail(self._waiting.popleft()[1], _ended())
            await calls.close()

    async def _until_gone(self, address: str) -> None:
        while address in self._addresses:
            self._moved.clear()
            await self._moved.wait()

    async def _follow(self, calls: MeshCalls) -> None:
        try:
            await self._read_stream(calls)
        except MeshError as error:
            if error.code is not Status.UNIMPLEMENTED:
                raise
            self._streams, self._revision = False, 0
            await self._ask_in_turns(calls)

    async def _ask_in_turns(self, calls: MeshCalls) -> None:
        """Ask an instance without a stream of statuses. Raises MeshError."""
        while True:
            resources = dict(self._resources())
            slots = asyncio.Semaphore(ASKED_AT_ONCE)
            await asyncio.gather(*(self._ask(calls, name, owner, slots) for name, owner in resources.items()))
            for name in self.names():
                if name not in resources:
                    await self._ask(calls, name, self._vmodels[name].owner, slots)
            self._all_known()
            await self._clock.sleep(max(TURN_MS, ASK_MS * len(resources)))

    async def _ask(self, calls: MeshCalls, name: str, owner: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            status = await calls.vmodel_status(wire.GetVModelStatusRequest(vModelId=name, owner=owner))
        self._take_status(name, status)

    async def _read_stream(self, calls: MeshCalls) -> None:
        request = pb.WatchStatusRequest(owners=OWNERS, revision=self._revision)
        async with aclosing(calls.watch(request)) as updates:
            while True:
                try:
                    async with asyncio.timeout(SILENCE_S):
                        update = await anext(updates, None)
                except TimeoutError as error:
                    raise MeshError(Status.DEADLINE_EXCEEDED, f"no message for {SILENCE_S:.0f} s") from error
                if update is None:
                    raise MeshError(Status.UNAVAILABLE, "the instance ended the stream of statuses")
                self._take(update)

    def _take(self, update: pb.StatusUpdate) -> None:
        if update.part != pb.StatusUpdate.CHANGES and self._listed is None:
            self._listed = set()
        for one in update.vmodels:
            self._take_status(one.id, one.status)
            if self._listed is not None:
                self._listed.add(one.id)
        if update.part == pb.StatusUpdate.SNAPSHOT_END:
            listed, self._listed = self._listed or set(), None
            for name in self.names():
                if name not in listed:
                    self._forget(name)
        if update.part != pb.StatusUpdate.SNAPSHOT and update.revision:
            self._revision = update.revision
            self._all_known()

    def _take_status(self, name: str, status: wire.VModelStatusInfo) -> None:
        if status.status == wire.VModelStatusInfo.NOT_FOUND:
            self._forget(name)
        else:
            self._know(name, read_vmodel(status))

    def _all_known(self) -> None:
        if not self.synced:
            self.synced = True
            self._changed(None)

    def _know(self, name: str, vmodel: MeshVModel) -> None:
        if self._vmodels.get(name) != vmodel:
            self._vmodels[name] = vmodel
            if self.synced:
                self._changed(name)

    def _forget(self, name: str) -> None:
        if self._vmodels.pop(name, None) is not None and self.synced:
            self._changed(name)

    async def _send(self, calls: MeshCalls) -> None:
        """Send what waits, batch after batch. Raises MeshError."""
        while True:
            batch = await self._next_batch()
            requests = [one for one, _ in batch.values()]
            try:
                if self._streams:
                    results = list((await calls.set_vmodels(pb.SetVModelsRequest(requests=requests))).results)
                else:
                    slots = asyncio.Semaphore(ASKED_AT_ONCE)
                    results = await asyncio.gather(*(_set_one(calls, one, slots) for one in requests))
                for result in results:
                    self._answer(result, batch[result.vmodel_id][1])
            finally:
                for _, future in batch.values():
                    _fail(future, _ended())  # those that have no answer

    async def _next_batch(self) -> dict[str, tuple[wire.SetVModelRequest, "asyncio.Future[MeshVModel]"]]:
        """What waits and is still wanted, each vmodel once; waits until there is something."""
        batch: dict[str, tuple[wire.SetVModelRequest, asyncio.Future[MeshVModel]]] = {}
        while not batch:
            self._filled.clear()
            if not self._waiting:
                await self._filled.wait()
                await asyncio.sleep(0)  # others of this turn come along
            while self._waiting and len(batch) < BATCH and self._waiting[0][0].vModelId not in batch:
                request, future = self._waiting.popleft()
                if not future.done():
                    batch[request.vModelId] = (request, future)
        return batch

    def _answer(self, result: pb.SetVModelResult, future: "asyncio.Future[MeshVModel]") -> None:
        if future.done():
            return
        if result.code:
            future.set_exception(MeshError(Status(result.code), result.message))
            return
        vmodel = read_vmodel(result.status)
        future.set_result(vmodel)
        self._know(result.vmodel_id, vmodel)


async def _set_one(calls: MeshCalls, request: wire.SetVModelRequest, slots: asyncio.Semaphore) -> pb.SetVModelResult:
    """As a batch of one would be answered."""
    async with slots:
        try:
            status = await calls.set_vmodel(request)
        except MeshError as error:
            return pb.SetVModelResult(vmodel_id=request.vModelId, code=error.code.value, message=str(error))
    return pb.SetVModelResult(vmodel_id=request.vModelId, status=status)


def _ended() -> MeshError:
    return MeshError(Status.UNAVAILABLE, "the connection to the mesh ended")


def _fail(future: "asyncio.Future[MeshVModel]", error: MeshError) -> None:
    if not future.done():
        future.set_exception(error)


def read_vmodel(status: wire.VModelStatusInfo) -> MeshVModel:
    """A status from the wire. What later versions may add is UNKNOWN."""
    moving = status.activeModelId != status.targetModelId
    return MeshVModel(
        transition=_TRANSITIONS.get(status.status, MeshTransition.UNKNOWN),
        active_id=status.activeModelId,
        target_id=status.targetModelId,
        owner=status.owner,
        active=_model(status.activeModelStatus) if status.HasField("activeModelStatus") else None,
        target=_model(status.targetModelStatus) if moving and status.HasField("targetModelStatus") else None,
    )


def _model(info: wire.ModelStatusInfo) -> MeshModel:
    return MeshModel(
        state=_STATES.get(info.status, MeshState.UNKNOWN),
        errors=tuple(info.errors[:1]),
        copies=tuple(
            MeshCopy(copy.location, _STATES.get(copy.copyStatus, MeshState.UNKNOWN), copy.time)
            for copy in info.modelCopyInfos
        ),
    )


def _has_failed(vmodel: MeshVModel) -> bool:
    """Whether the load of the model that is to be served has failed."""
    model = vmodel.target if vmodel.target_id != vmodel.active_id else vmodel.active
    return model is not None and model.state is MeshState.FAILED
