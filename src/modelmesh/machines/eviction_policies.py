"""Shadow caches: what a simple policy would hold if it alone decided. Ids and sizes only, no copies.

Each sees every use in order and answers whether it would have held the model. A model that is missed is always taken in (a miss
must load), except by `FrequencyAdmission`, which may not admit it. Sizes in bytes; time is counted in uses, so that nothing depends
on how fast they come. `modelmesh.machines.retention` compares them and follows the best.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from modelmesh.machines.ordering import Ordering
from modelmesh.values.ids import ModelId

LONG_AGO = -1_000_000_000
"""The last use but one of a model used once, in uses."""

REMEMBERED = 10
"""How many models that are not held are remembered for each that is."""


class Shadow(Protocol):
    """One simple policy.

    Attributes:
        room: Bytes it may hold.
    """

    room: int

    def use(self, model: ModelId, size: int, weight: float, now: int) -> tuple[bool, list[ModelId]]:
        """The model is used: was it held, and who had to leave for it.

        Args:
            model: Its id.
            size: Its bytes.
            weight: log2 of what a miss of it costs, relative to others.
            now: Uses so far.
        """
        ...

    def holds(self, model: ModelId) -> bool:
        """Whether it would hold the model now."""
        ...

    def forget(self, model: ModelId) -> None:
        """The model was unregistered."""
        ...

    def order(self) -> Iterator[ModelId]:
        """What it holds, the least worth keeping first."""
        ...

    def scale(self, held: int) -> None:
        """Time constants follow the number of models held."""
        ...


class Lru:
    """The one unused longest leaves."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._held: OrderedDict[ModelId, int] = OrderedDict()
        self._used = 0

    def use(self, model: ModelId, size: int, weight: float, now: int) -> tuple[bool, list[ModelId]]:
        """As `Shadow.use`."""
        del weight, now
        known = self._held.pop(model, None)
        self._used -= known or 0
        left = []
        while self._held and self._used + size > self.room:
            victim, freed = self._held.popitem(last=False)
            self._used -= freed
            left.append(victim)
        self._held[model] = size
        self._used += size
        return known is not None, left

    def holds(self, model: ModelId) -> bool:
        """As `Shadow.holds`."""
        return model in self._held

    def forget(self, model: ModelId) -> None:
        """As `Shadow.forget`."""
        self._used -= self._held.pop(model, 0)

    def order(self) -> Iterator[ModelId]:
        """As `Shadow.order`."""
        return iter(self._held)

    def scale(self, held: int) -> None:
        """Nothing is timed."""


class _Ranked:
    """The one of lowest rank leaves; a rank changes only with a use of its model."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._held: dict[ModelId, int] = {}
        self._order: Ordering[float, ModelId] = Ordering()
        self._used = 0

    def _rank(self, model: ModelId, size: int, weight: float, now: int) -> float:
        raise NotImplementedError

    def _prune(self) -> None:
        """Forget the least of what is remembered about models not held."""
        raise NotImplementedError

    def use(self, model: ModelId, size: int, weight: float, now: int) -> tuple[bool, list[ModelId]]:
        """As `Shadow.use`."""
        rank = self._rank(model, size, weight, now)
        known = self._held.get(model)
        if known == size and self._used <= self.room:
            self._order.put(model, rank)
            return True, []
        self._remove(model)
        left = []
        while self._used + size > self.room and (victim := self._order.first()) is not None:
            self._remove(victim)
            left.append(victim)
        self._held[model] = size
        self._order.put(model, rank)
        self._used += size
        self._prune()
        return known is not None, left

    def holds(self, model: ModelId) -> bool:
        """As `Shadow.holds`."""
        return model in self._held

    def order(self) -> Iterator[ModelId]:
        """As `Shadow.order`."""
        return iter(self._order)

    def _remove(self, model: ModelId) -> None:
        size = self._held.pop(model, None)
        if size is not None:
            self._order.remove(model)
            self._used -= size


class Lru2(_Ranked):
    """The one whose last use but one is longest ago leaves."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self._last: OrderedDict[ModelId, int] = OrderedDict()

    def _rank(self, model: ModelId, size: int, weight: float, now: int) -> float:
        del size, weight
        before = self._last.pop(model, LONG_AGO)
        self._last[model] = now
        # Among models used once the one unused longest leaves first.
        return before + now * 1e-9

    def _prune(self) -> None:
        while len(self._last) > REMEMBERED * len(self._held) + 100:
            self._last.popitem(last=False)

    def forget(self, model: ModelId) -> None:
        """As `Shadow.forget`."""
        self._remove(model)
        self._last.pop(model, None)

    def scale(self, held: int) -> None:
        """Nothing is timed."""


class DecayedFrequency(_Ranked):
    """The lowest exponentially decayed rate leaves, per byte and weighed by the cost of a miss.

    Rates are kept as log2 of what they would have been at the beginning of time: comparable at any later
    moment without touching those that are not used.
    """

    def __init__(self, room: int, *, half_life_per_held: int) -> None:
        super().__init__(room)
        self._per_held = half_life_per_held
        self._half_life = 1000.0
        self._time = 0.0
        """Half-lives that have passed; advances by less per use when more is held."""
        self._seen = 0
        self._rates: dict[ModelId, float] = {}

    def _rank(self, model: ModelId, size: int, weight: float, now: int) -> float:
        self._time += (now - self._seen) / self._half_life
        self._seen = now
        rate = self._rates.get(model)
        now_rate = self._time
        if rate is not None:
            high, low = max(rate, now_rate), min(rate, now_rate)
            now_rate = high + math.log2(1.0 + 2.0 ** (low - high))
        self._rates[model] = now_rate
        return now_rate + weight - math.log2(size)

    def _prune(self) -> None:
        bound = REMEMBERED * len(self._held) + 100
        if len(self._rates) > 2 * bound:
            kept = sorted(self._rates.items(), key=lambda item: item[1])[-bound:]
            self._rates = dict(kept)

    def forget(self, model: ModelId) -> None:
        """As `Shadow.forget`."""
        self._remove(model)
        self._rates.pop(model, None)

    def scale(self, held: int) -> None:
        """As `Shadow.scale`."""
        self._half_life = float(self._per_held * held)


class S3Fifo:
    """A small queue for newcomers, a main queue for what was used again, ghosts of what left the small one."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._small: OrderedDict[ModelId, int] = OrderedDict()
        self._main: OrderedDict[ModelId, int] = OrderedDict()
        self._ghosts: OrderedDict[ModelId, int] = OrderedDict()
        self._uses: dict[ModelId, int] = {}
        self._small_bytes = self._main_bytes = self._ghost_bytes = 0

    def use(self, model: ModelId, size: int, weight: float, now: int) -> tuple[bool, list[ModelId]]:
        """As `Shadow.use`."""
        del weight, now
        if model in self._uses:
            self._uses[model] = min(3, self._uses[model] + 1)
            return True, []
        left = []
        while self._uses and self._small_bytes + self._main_bytes + size > self.room:
            victim = self._evict()
            if victim is not None:
                left.append(victim)
        self._uses[model] = 0
        ghost = self._ghosts.pop(model, None)
        if ghost is not None:
            self._ghost_bytes -= ghost
            self._main[model] = size
            self._main_bytes += size
        else:
            self._small[model] = size
            self._small_bytes += size
        return False, left

    def _evict(self) -> ModelId | None:
        small_room = max(1, self.room // 10)
        if self._small and (self._small_bytes >= small_room or not self._main):
            model, size = self._small.popitem(last=False)
            self._small_bytes -= size
            if self._uses[model] > 1:
                self._main[model] = size
                self._main_bytes += size
                self._uses[model] = 0
                return None
            del self._uses[model]
            self._ghosts[model] = size
            self._ghost_bytes += size
            while self._ghost_bytes > self.room:
                self._ghost_bytes -= self._ghosts.popitem(last=False)[1]
            return model
        model, size = self._main.popitem(last=False)
        if self._uses[model] > 0:
            self._uses[model] -= 1
            self._main[model] = size
            return None
        self._main_bytes -= size
        del self._uses[model]
        return model

    def holds(self, model: ModelId) -> bool:
        """As `Shadow.holds`."""
        return model in self._uses

    def forget(self, model: ModelId) -> None:
        """As `Shadow.forget`."""
        self._small_bytes -= self._small.pop(model, 0)
        self._main_bytes -= self._main.pop(model, 0)
        self._ghost_bytes -= self._ghosts.pop(model, 0)
        self._uses.pop(model, None)

    def order(self) -> Iterator[ModelId]:
        """As `Shadow.order`."""
        yield from self._small
        yield from self._main

    def scale(self, held: int) -> None:
        """Nothing is timed."""


class FrequencyAdmission:
    """Keeps what it has unless a newcomer was clearly used more often lately: right where models come in turns."""

    EDGE = 1
    """By how many uses a newcomer must be ahead. With 0, of models used equally often those are exchanged
    that are used next."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._held: OrderedDict[ModelId, int] = OrderedDict()
        self._used = 0
        self._uses: dict[ModelId, int] = {}
        self._seen = 0
        self._halve_after = 1000

    def use(self, model: ModelId, size: int, weight: float, now: int) -> tuple[bool, list[ModelId]]:
        """As `Shadow.use`, but the model may be left outside."""
        del weight, now
        self._uses[model] = self._uses.get(model, 0) + 1
        self._seen += 1
        if self._seen >= self._halve_after:
            self._seen //= 2
            self._uses = {known: count // 2 for known, count in self._uses.items() if count > 1}
        if model in self._held:
            self._held.move_to_end(model)
            return True, []
        if size > self.room:
            return False, []
        left: list[ModelId] = []
        while self._held and self._used + size > self.room:
            victim = next(iter(self._held))
            if self._uses.get(model, 0) <= self._uses.get(victim, 0) + self.EDGE:
                return False, left
            self._used -= self._held.pop(victim)
            left.append(victim)
        self._held[model] = size
        self._used += size
        return False, left

    def holds(self, model: ModelId) -> bool:
        """As `Shadow.holds`."""
        return model in self._held

    def forget(self, model: ModelId) -> None:
        """As `Shadow.forget`."""
        self._used -= self._held.pop(model, 0)
        self._uses.pop(model, None)

    def order(self) -> Iterator[ModelId]:
        """As `Shadow.order`."""
        return iter(self._held)

    def scale(self, held: int) -> None:
        """As `Shadow.scale`."""
        self._halve_after = 10 * held
