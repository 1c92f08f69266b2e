"""What must hold in a cluster at every moment, whatever fails: checked after each turn of the simulated loop.

    memory      every ledger balances; no load gets bytes that are not free, but for a copy measured above its grant
                or a runtime that came back smaller; the runtime holds nothing that is not booked; a load is
                counted as promised until it asks for memory, and no longer
    loads       at most one load per model and instance
    hops        a hop is never forwarded on; no call goes round without end
    answers     no call is resolved after its answer; none is held without a task
    keys        a key under `copies/` has a copy behind it, or is about to go; a ready copy has a key, or is about to
    last copy   the last ready copy of a model in use is not dropped by choice
    mistakes    nothing of ours raises, but for what the simulation raises itself
    time        passes: nothing is repeated endlessly without waiting
    deaths      one model, or one call, ends a bounded number of runtimes (`modelmesh.testing.poison`)
    paths       an answer comes from the newest record that the answering instance had seen when the call began
    names       a vmodel's answer comes from a model that it named, as of what the instance had seen when the call began

`keys` and `answers` are bounded in time (`SOON_MS`) because instances that die, or lose the store, need some.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from modelmesh.control.view.keys import CopyKey, MemberKey, RegistryKey, VModelKey
from modelmesh.machines.model_copy import CopyState
from modelmesh.ports import Change, ChangeKind, CompactedError, KeyValue, Store
from modelmesh.testing.clock import VirtualClock, VirtualLoop
from modelmesh.testing.cluster import KEYS, SimulatedCluster, SimulatedInstance
from modelmesh.testing.named_models import NamedModels
from modelmesh.values.events import Event
from modelmesh.values.ids import InstanceId, ModelId, Revision, VModelId
from modelmesh.values.memory import NOTHING, Memory, total
from modelmesh.values.records import CopyRecord, ModelRecord, VModelRecord
from modelmesh.values.records import CopyState as Listed
from modelmesh.values.stored import RecordError

SOON_MS = 45_000
"""A lease of ten seconds, the longest retry, and a store that is slow to come back."""

STANDSTILL_TURNS = 20_000
"""Turns of the loop without time passing: far more than work at one moment takes."""

FORGOTTEN_MS = 5_000
"""How long a call may be held before a task handles it."""

FORGOTTEN = "which is held without a task"

INJECTED = "InjectedError"
"""In the text of what a simulation raises itself."""

MISTAKES = frozenset({"effect_failed", "duty_failed", "loop_failed", "broken", "sink_failed"})
"""Events that tell of a bug."""

BY_CHOICE = frozenset(
    ("redundant", "oldest_idle", "moved", "misplaced", "above_maximum", "duplicated", "little_used", "long_unused")
)
"""Reasons of dropping a copy for which another must stand, if the copy is in use."""

_FORESEEN = frozenset({CopyState.CLAIMING, CopyState.ABANDONED, CopyState.QUEUED})
_OPEN = frozenset({CopyState.READY, CopyState.SIZING})


class InvariantBrokenError(AssertionError):
    """An invariant does not hold; the message says which, where and how."""


class Invariants:
    """Watches one cluster. The first violation is kept in `broken`.

    Args:
        cluster: The cluster.
        store: The store without the faults that instances see.
        hopeless: Whether an instance cannot continue, and says so.
        disturbed: Whether an instance cannot reach the store at the moment, so that its keys may wait.
        problems: What others than the cluster's parts have found broken.

    Attributes:
        steps: Turns of the loop after which something had happened and all was looked at.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        store: Store,
        *,
        disturbed: Callable[[InstanceId], bool] = lambda _: False,
        problems: Sequence[str] = (),
        hopeless: Callable[[InstanceId], bool] = lambda _: False,
    ) -> None:
        self._hopeless = hopeless
        self.cluster = cluster
        self.steps = 0
        self.broken: str | None = None
        self.found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when an invariant was found broken."""
        self._store = store
        self._disturbed = disturbed
        self._problems = problems
        self._clock = VirtualClock()
        self._touched: dict[InstanceId, None] = {}
        self._turns = 0
        self._turned = 0.0
        self._books: dict[InstanceId, _Books] = {}
        self._keys: dict[InstanceId, dict[ModelId, CopyRecord]] = {}
        self._records: dict[ModelId, Revision] = {}
        self._paths: dict[ModelId, dict[str, Revision]] = {}
        self._named = NamedModels()
        self._unsound: dict[tuple[InstanceId, ModelId, str], int] = {}
        self._relying: dict[tuple[InstanceId, ModelId], str] = {}
        self._replaced_ms = -SOON_MS
        self._tasks: list[asyncio.Task[None]] = []
        self._mirror: asyncio.Task[None] | None = None
        cluster.watchers.append(self._happened)

    async def begin(self) -> None:
        """Look from now on."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.after_each_turn(self._after_turn)
        self._mirror = asyncio.create_task(self._follow())
        self._tasks.append(asyncio.create_task(self._every_second()))

    async def end(self) -> None:
        """Look no more."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.after_each_turn(lambda: None)
        for task in [*self._tasks, *([self._mirror] if self._mirror is not None else [])]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def check(self) -> None:
        """Raise if something was found broken."""
        if self.broken is not None:
            raise InvariantBrokenError(self.broken)

    def store_replaced(self) -> None:
        """The store was emptied: revisions begin again, and what was registered may be put back by whoever held it."""
        self._replaced_ms = self._clock.monotonic_ms()
        self._keys.clear()
        self._records.clear()
        self._paths.clear()
        self._named.clear()
        self._relying.clear()
        if self._mirror is not None:
            self._mirror.cancel()
            self._mirror = asyncio.create_task(self._follow())

    # --- paths of answers -------------------------------------------------------------------------

    def call_begins(self, via: InstanceId) -> dict[InstanceId, Revision]:
        """A call enters at `via`. Returns what each instance knows now; hand it to `call_answered`."""
        self._touched[via] = None
        return {name: instance.plane.state.revision for name, instance in self.cluster.instances.items()}

    def call_answered(
        self, model: ModelId, path: str, *, by: InstanceId | None, began_ms: int, known: dict[InstanceId, Revision]
    ) -> None:
        """A call for `model` that began at `began_ms` was answered from a copy loaded from `path`."""
        if by is not None:
            self._touched[by] = None
        if by not in known or began_ms < self._replaced_ms + SOON_MS:
            return
        registered = self._paths.get(model, {})
        newest = max((revision for revision in registered.values() if revision <= known[by]), default=Revision(0))
        if registered.get(path, 0) < newest:
            wanted = next(name for name, revision in registered.items() if revision == newest)
            self._break(f"paths: {by} answered a call for {model} from {path}, but knew of {wanted} when it began")

    def name_answered(
        self, vmodel: VModelId, model: ModelId, *, via: InstanceId, began_ms: int, known: dict[InstanceId, Revision]
    ) -> None:
        """A call for a vmodel that entered at `via` was answered by a model."""
        if via not in known or began_ms < self._replaced_ms + SOON_MS:
            return
        named = self._named.since(vmodel, known[via])
        if model not in named:
            self._break(f"names: a call for {vmodel} via {via} was answered by {model}, which named {list(named)}")

    # --- looking ----------------------------------------------------------------------------------

    def _break(self, what: str) -> None:
        if self.broken is None:
            self.broken = f"{what} (at {self._clock.monotonic_ms()} ms)"
            if not self.found.done():
                self.found.set_result(None)

    def _happened(self, event: Event) -> None:
        self._touched[event.instance] = None
        if event.kind in MISTAKES and INJECTED not in event.detail:
            self._break(f"mistakes: at {event.instance} {event.kind} {event.model} {event.reason} {event.detail}")
        if event.kind in {"evicted", "dropped"} and event.reason in BY_CHOICE:
            instance = self.cluster.instances.get(event.instance)
            if instance is not None and instance.dataplane.in_flight(event.model) > 0:
                if event.reason == "oldest_idle":
                    self._break(f"last copy: {event.instance} evicted {event.model} as idle while it is in use")
                self._relying[event.instance, event.model] = event.reason

    def _after_turn(self) -> None:
        now = asyncio.get_running_loop().time()
        self._turns = self._turns + 1 if now == self._turned else 0
        self._turned = now
        if self._turns == STANDSTILL_TURNS:
            self._break(f"time stands still: something is repeated endlessly; last touched: {[*self._touched]}")
        if not self._touched:
            return
        touched, self._touched = self._touched, {}
        self.steps += 1
        for name in touched:
            instance = self.cluster.instances.get(name)
            if instance is not None:
                self._look_at(name, instance)
        if self._problems:
            self._break(self._problems[0])
        if self.cluster.network.problems:
            self._break(f"calls: {self.cluster.network.problems[0]}")
        if self.cluster.crashes:
            self._break(f"a background task crashed: {self.cluster.crashes[0]}")

    async def _every_second(self) -> None:
        while True:
            await asyncio.sleep(1)
            for name, instance in self.cluster.instances.items():
                self._look_at(name, instance)
                self._look_at_keys(name, instance)
            for name in [name for name in self._keys if name not in self.cluster.instances]:
                for model in self._keys[name]:
                    self._unsound.setdefault((name, model, "is left of an instance that has gone"), 0)
            self._pass_time()

    def _look_at(self, name: InstanceId, instance: SimulatedInstance) -> None:
        states, booked = instance.plane.cache.states(), instance.plane.cache.books()
        self._look_at_books(name, instance, states, booked)
        self._look_at_runtime(name, instance, states, booked)
        for key in [key for key in self._relying if key[0] == name and states.get(key[1]) in {None, *_OPEN}]:
            del self._relying[key]

    def _look_at_books(
        self,
        name: InstanceId,
        instance: SimulatedInstance,
        states: dict[ModelId, CopyState],
        booked: dict[ModelId, Memory],
    ) -> None:
        ledger = instance.plane.cache.ledger
        try:
            ledger.check()
        except AssertionError:
            self._break(f"memory: the ledger of {name} does not balance")
        if total(booked.values()) != ledger.capacity - ledger.free:
            self._break(f"memory: {name} has booked {total(booked.values())} for copies, and more for none")
        waiting = sum(state in _FORESEEN for state in states.values())
        if instance.plane.cache.promised != waiting:
            self._break(f"memory: {name} has promised {instance.plane.cache.promised} loads, {waiting} are to come")
        before = self._books.get(name)
        books = _Books(ledger.free, ledger.capacity, booked)
        if before is not None and not before.free.at_most(NOTHING).fits(books.free):
            permitted = before.capacity.beyond(books.capacity)
            for model, size in booked.items():
                if states[model] in _OPEN or states[model] is CopyState.WITHDRAWING:
                    permitted += size.beyond(before.booked.get(model, NOTHING))
            if not (before.free.at_most(NOTHING) - books.free).fits(permitted):
                self._break(f"memory: {name} gave away {NOTHING - books.free} that it does not have")
        self._books[name] = books

    def _look_at_runtime(
        self,
        name: InstanceId,
        instance: SimulatedInstance,
        states: dict[ModelId, CopyState],
        booked: dict[ModelId, Memory],
    ) -> None:
        ledger, runtime = instance.plane.cache.ledger, instance.runtime
        above = NOTHING
        for model, size in runtime.models().items():
            if model not in states and instance.plane.link.ready:  # else it is asked whether it still has them
                self._break(f"memory: the runtime of {name} holds {model}, which {name} has no copy of")
            above += Memory(size).beyond(booked.get(model, NOTHING))
        used = Memory(runtime.used_bytes())
        if not used.fits(ledger.capacity + NOTHING.beyond(ledger.free) + above):
            self._break(f"memory: the runtime of {name} holds {used} of {ledger.capacity}")
        if runtime.problems:
            self._break(f"loads: at {name}, {runtime.problems[0]}")

    def _look_at_keys(self, name: InstanceId, instance: SimulatedInstance) -> None:
        """Note what is not as it should be; `_pass_time` says for how long it may be so."""
        unsound = dict.fromkeys(self._unsound_keys(name, instance))
        disturbed = self._disturbed(name)
        for token, model in instance.dataplane.held_calls():
            if not instance.plane.requests.works_at(token) and not self._hopeless(name):
                unsound[model, f"is asked for by call {token}, {FORGOTTEN}"] = None
        now_ms = self._clock.monotonic_ms()
        for model, what in unsound:
            self._unsound.setdefault((name, model, what), now_ms)
            if disturbed and FORGOTTEN not in what:
                self._unsound[name, model, what] = now_ms
        for key in [key for key in self._unsound if key[0] == name and (key[1], key[2]) not in unsound]:
            del self._unsound[key]

    def _unsound_keys(self, name: InstanceId, instance: SimulatedInstance) -> Iterator[tuple[ModelId, str]]:
        states, keys = instance.plane.cache.states(), self._keys.get(name, {})
        for model, record in keys.items():
            copy = instance.plane.cache.copy(model)
            if model not in states or (copy is not None and copy.load_id != record.load_id):
                yield model, "has a key and no copy"
            elif copy is not None and copy.ready != (record.state is Listed.LOADED):
                yield model, f"is {states[model].value} and listed as {record.state.value}"
        for model, state in states.items():
            if state in _OPEN and model not in keys:
                yield model, "is ready and has no key"

    def _pass_time(self) -> None:
        now_ms = self._clock.monotonic_ms()
        for (name, model, what), since_ms in tuple(self._unsound.items()):
            if name not in self.cluster.instances:
                if model not in self._keys.get(name, {}):
                    del self._unsound[name, model, what]
                elif since_ms == 0:
                    self._unsound[name, model, what] = now_ms
                    continue
            forgotten = FORGOTTEN in what
            bound_ms = FORGOTTEN_MS if forgotten else SOON_MS
            if now_ms - since_ms > bound_ms and (forgotten or now_ms - self._replaced_ms > bound_ms) and since_ms:
                self._break(f"{'calls' if forgotten else 'keys'}: {model} at {name} {what} for {bound_ms // 1000} s")

    # --- a mirror of the store that is never late ---------------------------------------------------

    async def _follow(self) -> None:
        while True:
            with suppress(CompactedError):
                listing = await self._store.range(KEYS.base)
                self._keys.clear()
                for item in listing.items:
                    self._put(item)
                async for changes in self._store.watch(KEYS.base, start=Revision(listing.revision + 1)):
                    for instance in _left(changes):
                        # What is deleted with its lease was not dropped by a decision.
                        for model in self._keys.get(instance, {}):
                            self._relying.pop((instance, model), None)
                    for change in changes:
                        self._change(change)

    def _change(self, change: Change) -> None:
        if change.kind is ChangeKind.PUT:
            self._put(change.item)
            return
        match KEYS.parse(change.item.key):
            case CopyKey(model, instance):
                self._keys.get(instance, {}).pop(model, None)
                self._deleted(model, instance)
            case RegistryKey(model):
                self._records.pop(model, None)
            case VModelKey(vmodel):
                self._named.delete(vmodel, change.item.mod_revision)
            case _:
                pass

    def _put(self, item: KeyValue) -> None:
        try:
            self._put_record(item)
        except RecordError:
            parsed = KEYS.parse(item.key)
            if isinstance(parsed, CopyKey):  # what cannot be read lists nothing
                self._keys.get(parsed.instance, {}).pop(parsed.model, None)

    def _put_record(self, item: KeyValue) -> None:
        match KEYS.parse(item.key):
            case CopyKey(model, instance):
                self._keys.setdefault(instance, {})[model] = CopyRecord.decode(item.value)
            case RegistryKey(model):
                self._records[model] = item.create_revision
                path = ModelRecord.decode(item.value).path
                self._paths.setdefault(model, {})[path] = item.create_revision
            case VModelKey(vmodel):
                self._named.put(vmodel, VModelRecord.decode(item.value), item.mod_revision)
            case _:
                pass

    def _deleted(self, model: ModelId, instance: InstanceId) -> None:
        reason = self._relying.pop((instance, model), None)
        holder = self.cluster.instances.get(instance)
        if reason is None or holder is None or holder.dataplane.in_flight(model) == 0 or model not in self._records:
            return
        for other, copies in self._keys.items():
            copy = copies.get(model)
            if other != instance and copy is not None and copy.state is Listed.LOADED:
                return
        self._break(f"last copy: {instance} dropped the last copy of {model} ({reason}) while it is in use")


class _Books:
    """What one ledger said at the last look."""

    __slots__ = ("booked", "capacity", "free")

    def __init__(self, free: Memory, capacity: Memory, booked: dict[ModelId, Memory]) -> None:
        self.free = free
        self.capacity = capacity
        self.booked = booked


def _left(changes: Sequence[Change]) -> list[InstanceId]:
    """Instances whose own key was deleted, and with it all that their lease held."""
    deleted = (KEYS.parse(change.item.key) for change in changes if change.kind is not ChangeKind.PUT)
    return [key.instance for key in deleted if isinstance(key, MemberKey)]
