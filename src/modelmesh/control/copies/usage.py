"""How the copies of this instance are used, and the order in which they would be evicted."""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from modelmesh.machines.load_times import LoadTimes
from modelmesh.machines.ordering import Ordering
from modelmesh.machines.retention import REPEATED, Retention
from modelmesh.values.dataplane import Usage
from modelmesh.values.explanation import SizeSource
from modelmesh.values.ids import LoadId, ModelId
from modelmesh.values.memory import Memory

Name = TypeVar("Name")
Value = TypeVar("Value")

RATE_WINDOW_MS = 60_000
EXPECTED_MS = 2_000
"""How long a copy that was loaded for waiting calls is kept for them, until the first is seen on it."""


LEARNED = 100_000
"""Models whose size and load time are remembered, and those not loaded yet of which a size was predicted; about 20 MB when full."""

USES_AT_A_LOOK = 4_000
"""Uses that are passed to the retention at a time, if there are not more models; each costs about 10 µs."""

RATE_MEMORY_MS = 600_000
"""Of uses this long ago a third still counts towards a copy's rate."""

RATE_PRIOR_MS = 60_000
"""A copy's rate is taken to have been seen for so much longer than it was: one use is no habit."""

TYPE_SIZES = 8
"""A type's mean size is kept as the sum of so many sizes; a new one takes the place of such a part of it."""


class Learned:
    """What loads taught: the size of each model, and how long its load takes compared with others.

    A size that the runtime predicted counts until the model has been measured.
    """

    def __init__(self) -> None:
        self._sizes: OrderedDict[ModelId, Memory] = OrderedDict()
        self._predictions: OrderedDict[ModelId, Memory] = OrderedDict()
        self._heard: OrderedDict[ModelId, Memory] = OrderedDict()
        self._times: OrderedDict[ModelId, int] = OrderedDict()
        self._types: OrderedDict[str, Memory] = OrderedDict()
        self._load_times = LoadTimes()
        self._unload_ms = 0.0

    def size(self, model: ModelId) -> Memory | None:
        """The measured size; None before the first load."""
        return self._sizes.get(model)

    def prediction(self, model: ModelId) -> Memory | None:
        """The size that the runtime predicted; None: it did not, or the model has been measured since."""
        return self._predictions.get(model)

    def type_size(self, model_type: str) -> Memory | None:
        """The mean measured size of models of a type, the latest counting most; None: none was loaded yet."""
        weighted = self._types.get(model_type)
        return None if weighted is None else weighted // TYPE_SIZES

    def best_size(self, model: ModelId, model_type: str, *, default: Memory) -> tuple[Memory, SizeSource]:
        """The best estimate of a model's size without asking anyone, and where it comes from."""
        for size, source in (
            (self.size(model), SizeSource.MEASURED),
            (self.prediction(model), SizeSource.PREDICTED),
            (self._heard.get(model), SizeSource.ELSEWHERE),
            (self.type_size(model_type), SizeSource.TYPE_MEAN),
        ):
            if size:
                return size, source
        return default, SizeSource.DEFAULT

    def heard(self, model: ModelId, size: Memory, *, capacity: Memory) -> None:
        """Another instance has loaded a model: that is its size there. More than all that it has (`capacity`) is not believed."""
        if size and size.fits(capacity):
            _remember(self._heard, model, size)

    def forget_heard_beyond(self, largest: Memory) -> None:
        """The instances that are left have so much at most: a larger model that none of them measured is not refused for its size."""
        for model in [model for model, size in self._heard.items() if not size.fits(largest)]:
            del self._heard[model]

    def predicted(self, model: ModelId, size: Memory) -> None:
        """The runtime predicted the size of a model that was not measured yet."""
        _remember(self._predictions, model, size)

    def measured(self, model: ModelId, model_type: str, size: Memory) -> None:
        """A load was measured."""
        _remember(self._sizes, model, size)
        self._predictions.pop(model, None)
        weighted = self._types.get(model_type)
        weighted = size * TYPE_SIZES if weighted is None else weighted - weighted // TYPE_SIZES + size
        _remember(self._types, model_type, weighted)

    def load_ms(self, model: ModelId) -> int:
        """How long the latest load of a model took; 0: not known."""
        return self._times.get(model, 0)

    @property
    def common_load_ms(self) -> int:
        """How long loads commonly take (a geometric mean, the latest counting most); 0: there was none."""
        return self._load_times.common_ms

    def expected_load_ms(self, model: ModelId, size: Memory) -> int:
        """How long a load of a model will take: as the last one, else as loads of that size do; 0: not known."""
        return self.load_ms(model) or self._load_times.estimate_ms(size)

    def loaded(self, model: ModelId, size: Memory, took_ms: int) -> None:
        """A load of a model of that size took so long."""
        self._load_times.observe(size, took_ms)
        _remember(self._times, model, max(1, took_ms))

    @property
    def common_unload_ms(self) -> int:
        """How long unloads commonly take (the latest counting most), at least 1; 0: there was none."""
        return math.ceil(self._unload_ms)

    def unloaded(self, took_ms: int) -> None:
        """An unload took so long."""
        time = max(1, took_ms)
        self._unload_ms = time if not self._unload_ms else self._unload_ms + (time - self._unload_ms) / 32

    def weight(self, model: ModelId, size: Memory) -> float:
        """log2 of the expected load time relative to the common one, in whole steps."""
        expected_ms = self.expected_load_ms(model, size)
        return self._load_times.weight(expected_ms) if expected_ms else 0.0


def _remember(known: "OrderedDict[Name, Value]", name: Name, value: Value) -> None:
    known[name] = value
    known.move_to_end(name)
    if len(known) > LEARNED:
        known.popitem(last=False)


class _Seen(NamedTuple):
    """Uses of a held copy: their number as of `at_ms`, older ones counting less; held since `since_ms`."""

    weight: float
    at_ms: int
    since_ms: int

    def weight_at(self, now_ms: int) -> float:
        """The number as of now; a clock that was set back changes nothing."""
        return self.weight * math.exp(min(0, self.at_ms - now_ms) / RATE_MEMORY_MS)


class UsageBook:
    """Last use of each held copy, in order; O(log n) per change.

    With a `Retention`, copies leave in its order; without one, the one unused longest leaves first.
    """

    def __init__(self, learned: Learned, retention: Retention | None = None) -> None:
        self._learned = learned
        self.retention = retention
        self._order: Ordering[tuple[int, int], ModelId] = Ordering()
        self._busy: dict[ModelId, None] = {}
        self._expected: dict[ModelId, int] = {}
        self._now_ms = 0
        self._requests = 0
        self._service_us = 0
        self._seen: dict[ModelId, _Seen] = {}
        self._rates: deque[tuple[int, int, int]] = deque()
        self.requests_per_minute = 0
        self.at_once = 0
        """Calls that were at work at a time, in the mean of the last minute, in hundredths; each counts when it ends."""

    def __len__(self) -> int:
        return len(self._order)

    def rate(self, model: ModelId, now_ms: int) -> float:
        """How often a held copy is expected to be used, a millisecond; one used seldom or lately first counts little."""
        seen = self._seen.get(model)
        if seen is None:
            return 0.0
        return seen.weight_at(now_ms) / (min(max(0, now_ms - seen.since_ms), RATE_MEMORY_MS) + RATE_PRIOR_MS)

    def missed(self, model: ModelId, size: Memory) -> None:
        """A load begins for which callers wait."""
        if self.retention is not None:
            self.retention.missed(model, size.bytes, self._learned.weight(model, size))

    def add(self, model: ModelId, load_id: LoadId, last_use_ms: int, size: Memory, *, missed: bool) -> None:
        """A copy is held from now on; `missed`: its load was reported before."""
        self._order.put(model, (last_use_ms, load_id))
        self._seen.setdefault(model, _Seen(1.0, max(self._now_ms, last_use_ms), max(self._now_ms, last_use_ms)))
        if self.retention is not None:
            self.retention.add(model, size.bytes, missed=missed)

    def remove(self, model: ModelId) -> None:
        """A copy is not held any more."""
        if self._order.remove(model) is not None and self.retention is not None:
            self.retention.remove(model)
        self._busy.pop(model, None)
        self._expected.pop(model, None)
        self._seen.pop(model, None)

    def expect(self, model: ModelId, now_ms: int) -> None:
        """Calls that waited for this copy are on their way to it; without them it would count as idle."""
        self._now_ms = now_ms
        self._expected[model] = now_ms + EXPECTED_MS

    def touch(self, model: ModelId, last_use_ms: int) -> None:
        """A copy was used; the last use never decreases."""
        rank = self._order.rank(model)
        if rank is not None and last_use_ms > rank[0]:
            self._order.put(model, (last_use_ms, rank[1]))

    def asked_for(self, model: ModelId, last_use_ms: int, size: Memory) -> None:
        """A load of the copy was requested: it counts as one use, if it is newer than the last one."""
        if last_use_ms > self.last_use_ms(model) and model in self._order:
            self.touch(model, last_use_ms)
            if self.retention is not None:
                self.retention.used(model, size.bytes, 1, self._learned.weight(model, size), most=1)

    def apply(self, batch: list[Usage], now_ms: int, size: Callable[[ModelId], Memory]) -> None:
        """Take in what the data plane counted since the last look."""
        order = self._order
        self._busy = {use.model: None for use in batch if use.in_flight + use.waiting > 0 and use.model in order}
        self._now_ms = now_ms
        for use in batch:
            if use.requests:
                self._expected.pop(use.model, None)
            if use.requests or use.in_flight:
                # The data plane's clock is coarse, and what is in flight is in use now.
                self.touch(use.model, now_ms if use.in_flight else min(use.last_use_ms, now_ms))
            if use.requests and (seen := self._seen.get(use.model)) is not None:
                self._seen[use.model] = _Seen(seen.weight_at(now_ms) + use.requests, now_ms, seen.since_ms)
            self._requests += use.requests
            self._service_us += use.service_us
        if self.retention is not None:
            most = max(1, min(REPEATED, USES_AT_A_LOOK // max(1, len(batch))))
            for use in sorted(batch, key=lambda use: use.last_use_ms):
                if use.requests and use.model in order:
                    used = size(use.model)
                    weight = self._learned.weight(use.model, used)
                    self.retention.used(use.model, used.bytes, use.requests, weight, most=most)

    def busy(self, model: ModelId) -> bool:
        """Whether requests were in flight, waiting or expected at the last look."""
        return model in self._busy or self._expected.get(model, 0) > self._now_ms

    def last_use_ms(self, model: ModelId) -> int:
        """Last use of a held copy; 0 if it is not held."""
        rank = self._order.rank(model)
        return rank[0] if rank else 0

    def oldest_use_ms(self) -> int:
        """Last use of the copy unused longest; 0 if nothing is held."""
        oldest = self._order.first()
        return self.last_use_ms(oldest) if oldest is not None else 0

    def leaving_order(self) -> Iterator[ModelId]:
        """Held models, the one that would leave first first; read on only while nothing changes."""
        return iter(self._order) if self.retention is None else self.retention.order()

    def sample_rate(self, now_ms: int) -> None:
        """Measure the rate over the last minute; call it about once a second."""
        self._rates.append((now_ms, self._requests, self._service_us))
        while len(self._rates) > 2 and self._rates[1][0] <= now_ms - RATE_WINDOW_MS:
            self._rates.popleft()
        first_ms, requests, service_us = self._rates[0]
        elapsed_ms = now_ms - first_ms
        if elapsed_ms <= 0:
            self.requests_per_minute = self.at_once = 0
            return
        self.requests_per_minute = (self._requests - requests) * 60_000 // elapsed_ms
        self.at_once = (self._service_us - service_us) // (elapsed_ms * 10)
