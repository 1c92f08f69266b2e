"""Lets the number of copies follow the load.

Of all holders of a model one proposes: the holder of the oldest ready copy adds, that of the newest
drops its own. Two that both think so are harmless: a claim lets one win, and a removal compares that
the copies relied on still exist. The decision is `modelmesh.policy.copies`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from modelmesh.control.copies.cache import Cache
from modelmesh.control.decide import Decider
from modelmesh.control.duties.rates import RateBook
from modelmesh.control.duties.spares import Spares
from modelmesh.control.journal import Journal
from modelmesh.control.requests.journeys import Requests
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.records import NotReadError, RecordCache, Registered
from modelmesh.policy.copies import (
    AddCopies,
    ClusterRoom,
    CopiesLimits,
    CopiesReason,
    DropCopy,
    ModelLoad,
    fewer_copies,
    more_copies,
)
from modelmesh.ports import Clock, StoreError
from modelmesh.values import bounds
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.memory import NOTHING, largest, total
from modelmesh.values.records import ModelRecord
from modelmesh.values.view import ClusterView, Copy

LEAST_RATE = 10
"""Requests per minute; a lower live setting is an error."""

SPARE_TICKS = 10
"""Copies are looked at for dropping once in so many ticks; for adding at every one."""

AT_ONCE = 8
"""Models to which this instance adds copies at a time."""

LOOKS = 64
"""Models in regular use that are looked at in a tick, the others in the next ones: a spare is never urgent."""

LOOKS_AT_SPARES = 512
"""Models with copies elsewhere that are looked at in a turn of dropping, likewise."""

REFUSED_MS = 10_000
"""How long a model is left alone after no copy could be added."""

NEW_COPY_AHEAD_MS = 20_000
"""A copy added for its load counts as used in the near future, so that it is not the next to leave."""


class Scaler:
    """Adds and drops copies of the models that this instance holds."""

    def __init__(
        self,
        *,
        own: InstanceId,
        cache: Cache,
        rates: RateBook,
        decider: Decider,
        requests: Requests,
        models: RecordCache[ModelId, ModelRecord],
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
        limits: CopiesLimits,
        bandwidth_percent: int,
    ) -> None:
        self._own = own
        self._cache = cache
        self._rates = rates
        self._decider = decider
        self._requests = requests
        self._models = models
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self.limits = limits
        self._usual_rate = limits.rate
        self._bandwidth_percent = bandwidth_percent
        self._adding: dict[ModelId, None] = {}
        self._refused: dict[ModelId, int] = {}
        self._dropped: dict[ModelId, int] = {}
        self._spares = Spares(changing=self._changing, again_ms=limits.spare_again_ms)
        self._cut_off_since_ms: int | None = None
        self._cut_off_ended_ms: int | None = None
        self._rejoined_ms = 0
        self._ticks = 0

    def cut_off(self, since_ms: int) -> None:
        """This instance is out of touch: what others loaded since then may double what is here."""
        if self._cut_off_since_ms is None or self._cut_off_ended_ms is not None:
            self._cut_off_since_ms, self._cut_off_ended_ms = since_ms, None

    def rejoined(self) -> None:
        """This instance's keys were written again."""
        if self._cut_off_since_ms is not None and self._cut_off_ended_ms is None:
            self._cut_off_ended_ms = self._clock.monotonic_ms()
            self._rejoined_ms = self._clock.now_ms()

    def tick(self) -> None:
        """Look at the use of the copies here; about once a second."""
        self._ticks += 1
        now_ms = self._clock.monotonic_ms()
        self._rates.tick(now_ms)
        self._refused = {model: until for model, until in self._refused.items() if until > now_ms}
        if self._cache.draining:
            return
        spare_turn = self._ticks % SPARE_TICKS == 0
        if spare_turn:
            self._rates.keep(self._cache.models())
            self._dropped = {model: at for model, at in self._dropped.items() if now_ms - at < self.limits.dropped_ms}
        cluster = self._decider.cluster_view()
        self._spares.look(cluster, now_ms)
        room = self._room(cluster)
        for model in self._candidates(cluster, now_ms):
            self._add_if_wanted(model, cluster, room)
        for model in self._cache.ready():
            registered = self._models.cached(model)
            if registered is not None and registered.record.minimum_copies > 1:
                self._add_if_wanted(model, cluster, room)
        rejoined = self._cut_off_ended_ms is not None
        if spare_turn or rejoined:
            shared = [model for model in self._cache.ready() if self._decider.elsewhere(model)]
            if not rejoined:
                shared = _in_turn(shared, LOOKS_AT_SPARES, self._ticks // SPARE_TICKS)
            self._drop_spares(shared, cluster, room)
        if rejoined and now_ms - (self._cut_off_ended_ms or 0) > 2 * REFUSED_MS:
            self._cut_off_since_ms = self._cut_off_ended_ms = None

    # --- adding -----------------------------------------------------------------------------------

    def _candidates(self, cluster: ClusterView, now_ms: int) -> list[ModelId]:
        """Of the models used here those that `more_copies` might want more of.

        To look closely takes a tenth of a millisecond, and an instance may use ten thousand models in a second.
        """
        elsewhere = self._hot_elsewhere(cluster)
        urgent, regular = [], []
        for model in self._rates.used():
            threshold = self._threshold(model)
            self._rates.note_heavy(model, threshold, now_ms)
            rate, waiting = elsewhere.get(model, (0, False))
            hot = threshold is not None and self._rates.rate(model) + rate >= threshold
            if hot or waiting or self._rates.saturated(model):
                urgent.append(model)
            elif self._rates.regular(model):
                regular.append(model)
        return urgent + _in_turn(regular, LOOKS, self._ticks)

    def _hot_elsewhere(self, cluster: ClusterView) -> dict[ModelId, tuple[int, bool]]:
        """What other instances publish about their hot copies: requests per minute, and whether some wait."""
        known: dict[ModelId, tuple[int, bool]] = {}
        for place in cluster.instances:
            if place.instance != self._own:
                for hot in place.record.hot:
                    rate, waiting = known.get(hot.model, (0, False))
                    known[hot.model] = (rate + hot.rate, waiting or hot.waiting > 0)
        return known

    def _add_if_wanted(self, model: ModelId, cluster: ClusterView, room: ClusterRoom) -> None:
        registered = self._models.cached(model)
        if registered is None or model in self._adding or model in self._refused or len(self._adding) >= AT_ONCE:
            return
        copies = self._ready_copies(model, cluster)
        if not copies:
            return
        oldest = min(copies, key=lambda copy: (copy.create_revision, copy.instance))
        if oldest.instance != self._own:
            return
        load = self._load(model, registered, copies, cluster)
        decision = more_copies(load, replace(room, promised=self._spares.promised), self.limits)
        if isinstance(decision, AddCopies):
            self._adding[model] = None
            if decision.reason is CopiesReason.REGULAR_USE:
                self._spares.begins(model, load.size)
            self._journal.note("adds_copies", model, decision.reason.value, f"{decision.count} to {len(copies)}")
            self._tasks.start(self._add(model, registered, decision), f"add copies of {model}")

    async def _add(self, model: ModelId, registered: Registered, decision: AddCopies) -> None:
        try:
            last_use_ms = self._cache.usage.last_use_ms(model)
            if decision.reason in {CopiesReason.RATE, CopiesReason.SATURATED}:
                last_use_ms = self._clock.now_ms() + NEW_COPY_AHEAD_MS
            full: frozenset[InstanceId] = frozenset()
            if not decision.displaces:  # as of now: spares that were decided in the same turn have taken some
                full = self._spares.full(model, self._decider.cluster_view())
            for _ in range(decision.count):
                if not await self._requests.add_copy(model, registered, last_use_ms=last_use_ms, exclude=full):
                    self._refused[model] = self._clock.monotonic_ms() + REFUSED_MS
                    return
                if decision.reason is CopiesReason.REGULAR_USE:
                    self._spares.added(model, self._clock.monotonic_ms())
        except StoreError:
            self._refused[model] = self._clock.monotonic_ms() + REFUSED_MS
        finally:
            del self._adding[model]

    def set_rate(self, value: str | None) -> None:
        """A live setting: requests per minute from which a model gets another copy; None: as at the start.

        Raises ValueError for what it cannot be.
        """
        rate = int(value) if value is not None else self._usual_rate
        if value is not None and rate < LEAST_RATE:
            raise ValueError(f"{rate} is below {LEAST_RATE} requests per minute")
        self._rates.limits = self.limits = replace(self.limits, rate=bounds.COUNT.clamp(rate))

    async def keep_minimum(self, models: Iterable[ModelId]) -> None:
        """Load models that are to have copies and have none; where there is one, its holder adds the others."""
        for model in models:
            try:
                registered = await self._models.get(model)
            except (StoreError, NotReadError):
                return
            if registered is None or model in self._refused or model in self._adding:
                continue
            copies = self._decider.model_view(model, registered).copies
            if not copies and registered.record.minimum_copies > 0:
                decision = AddCopies(registered.record.minimum_copies, CopiesReason.BELOW_MINIMUM)
                self._journal.note("adds_copies", model, decision.reason.value, f"{decision.count} to 0")
                self._adding[model] = None
                await self._add(model, registered, decision)

    # --- dropping ---------------------------------------------------------------------------------

    def _drop_spares(self, shared: Sequence[ModelId], cluster: ClusterView, room: ClusterRoom) -> None:
        """Budget per turn: a twentieth of the capacity; the first is always allowed, duplicates cost nothing."""
        budget = self._cache.ledger.capacity // 20
        dropped = NOTHING
        for model in shared:
            copies = self._ready_copies(model, cluster)
            registered = self._models.cached(model)
            relied_on = self._cache.others(model) if len(copies) > 1 else ()
            if registered is None or not relied_on:
                continue
            newest = max(copies, key=lambda copy: (copy.create_revision, copy.instance))
            if newest.instance != self._own and not self._duplicated(model, copies):
                continue
            load = self._load(model, registered, copies, cluster)
            decision = fewer_copies(load, room, self.limits)
            if not isinstance(decision, DropCopy):
                continue
            copy = next(copy for copy in copies if copy.instance == self._own)
            free = decision.reason in {CopiesReason.DUPLICATED, CopiesReason.ABOVE_MAXIMUM}
            if not free and dropped and not (dropped + copy.size).fits(budget):
                return
            dropped += NOTHING if free else copy.size
            self._dropped[model] = self._clock.monotonic_ms()
            self._journal.note("drops_copy", model, decision.reason.value, f"one of {len(copies)}")
            self._cache.drop(model, decision.reason, relied_on=relied_on)

    # --- the facts --------------------------------------------------------------------------------

    def _changing(self, model: ModelId) -> bool:
        """Whether a copy of the model is being added from here, or loaded somewhere."""
        if model in self._adding:
            return True
        return any(not copy.ready for copy in self._decider.model_view(model, self._models.cached(model)).copies)

    def _ready_copies(self, model: ModelId, cluster: ClusterView) -> tuple[Copy, ...]:
        """Ready copies at instances that can be reached and stay."""
        return tuple(
            copy
            for copy in self._decider.model_view(model, self._models.cached(model)).copies
            if copy.ready
            and (place := cluster.instance(copy.instance)) is not None
            and place.reachable
            and not place.record.draining
        )

    def _load(
        self, model: ModelId, registered: Registered, copies: tuple[Copy, ...], cluster: ClusterView
    ) -> ModelLoad:
        record = registered.record
        everywhere = self._decider.model_view(model, registered).copies
        now_ms, monotonic_ms = self._clock.now_ms(), self._clock.monotonic_ms()
        rate, waiting = self._rates.rate(model), self._rates.saturated(model)
        for copy in copies:
            place = cluster.instance(copy.instance)
            if place is not None and copy.instance != self._own:
                hot = next((entry for entry in place.record.hot if entry.model == model), None)
                if hot is not None:
                    rate += hot.rate
                    waiting = waiting or hot.waiting > 0
        dropped_ms = self._dropped.get(model)
        size = largest(copy.size for copy in copies)
        free = self._decider.free_places(model, registered, cluster)
        displaced_ms = min((place.record.next_victim_use_ms or now_ms for place in free), default=now_ms)
        newest = max(copies, key=lambda copy: copy.create_revision)
        return ModelLoad(
            ready=len(copies),
            loading=sum(not copy.ready for copy in everywhere),
            places=len(free),
            rate=rate,
            threshold=self._threshold(model),
            saturated=waiting,
            regular=self._rates.regular(model),
            unused_ms=max(0, now_ms - self._cache.usage.last_use_ms(model)),
            heavy_ago_ms=self._rates.heavy_ago_ms(model, monotonic_ms),
            newest_ms=max(0, now_ms - newest.since_ms),
            dropped_ago_ms=None if dropped_ms is None else monotonic_ms - dropped_ms,
            duplicated=self._duplicated(model, copies),
            minimum=record.minimum_copies,
            maximum=record.maximum_copies or None,
            size=size,
            fits=self._spares.fits(size, free),
            displaced_ms=max(0, now_ms - displaced_ms),
            spared_ago_ms=self._spares.added_ago_ms(model, monotonic_ms),
        )

    def _duplicated(self, model: ModelId, copies: tuple[Copy, ...]) -> bool:
        """Whether another copy was loaded while this instance was cut off, and did not know of the one here.

        Copies added since then, here or elsewhere, are wanted; so are spares added from here, whenever that was.
        """
        since_ms = self._cut_off_since_ms
        if since_ms is None or self._cut_off_ended_ms is None or self._spares.was_added(model):
            return False
        if any(copy.instance == self._own and copy.since_ms > self._rejoined_ms for copy in copies):
            return False
        return any(copy.instance != self._own and since_ms <= copy.since_ms <= self._rejoined_ms for copy in copies)

    def _threshold(self, model: ModelId) -> int | None:
        concurrency = self._cache.max_concurrency(model)
        if concurrency <= 0:
            return self.limits.rate
        return self._rates.threshold(model, max_concurrency=concurrency, bandwidth_percent=self._bandwidth_percent)

    def _room(self, cluster: ClusterView) -> ClusterRoom:
        entries = [entry for entry in cluster.instances if entry.available]
        leaving = [entry.record.next_victim_use_ms for entry in entries if entry.record.next_victim_use_ms]
        return ClusterRoom(
            capacity=total(entry.record.capacity for entry in entries),
            free=total(entry.free for entry in entries),
            leaving_age_ms=max(0, self._clock.now_ms() - min(leaving)) if leaving else 0,
        )


def _in_turn(models: Sequence[ModelId], count: int, turn: int) -> list[ModelId]:
    """`count` of them, in each turn the next."""
    first = turn * count % len(models) if len(models) > count else 0
    return [*models[first:], *models[:first]][:count]
