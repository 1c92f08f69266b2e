"""Which copies are worth keeping: the order in which they would be evicted.

No single simple policy is good on all traffic (`docs/decisions/0006-eviction.md` has the figures), so
several run as shadow caches beside the real one, and copies that the best of them would not hold leave first. Uses come in batches: how
often each model was used since the last look.

Sizes and the room are numbers here, not `Memory`: every use goes through six shadows that add, compare and take logarithms
of sizes, and an addition of amounts takes ten times as long as one of numbers. Of several dimensions the caller must pass
one number, such as the share of the scarcest.
"""

from collections.abc import Iterator

from modelmesh.machines.eviction_policies import DecayedFrequency, FrequencyAdmission, Lru, Lru2, S3Fifo, Shadow
from modelmesh.values.ids import ModelId

REPEATED = 4
"""Uses of one model within a batch that count; more of them are no further evidence that it is worth keeping."""

MEMORY_PER_HELD = 10
"""Half-life of the misses by which the shadows are compared, in uses for each copy held."""

MARGIN = 0.02
"""How much better another shadow's hit ratio must be before it is followed: switching costs loads."""

SMALLEST = 20
"""Copies held that time constants assume at least."""

MOST_WEIGHT = 3
"""A miss counts at most 2 ** this times as much, or as little, as one of average cost."""


class Retention:
    """The value of what is held, by the shadow that does best.

    Held models that a shadow does not hold are its outcasts; they leave first, in the order in which it let
    them go.
    """

    def __init__(self, room: int) -> None:
        """`room`: bytes that copies may take."""
        self._shadows: dict[str, Shadow] = {
            "decayed_frequency": DecayedFrequency(room, half_life_per_held=50),
            "s3_fifo": S3Fifo(room),
            "lru_2": Lru2(room),
            "lru": Lru(room),
            "decayed_frequency_short": DecayedFrequency(room, half_life_per_held=4),
            "frequency_admission": FrequencyAdmission(room),
        }
        self._held: dict[ModelId, None] = {}
        self._outcasts: dict[str, dict[ModelId, None]] = {name: {} for name in self._shadows}
        self._missed = dict.fromkeys(self._shadows, 0.0)
        self._counted = 0.0
        self._now = 0
        self._scaled = 0
        self._decay = 1.0
        self._sure: dict[ModelId, int] = {}
        self.following = "decayed_frequency"
        """The shadow whose order is used."""

    def __len__(self) -> int:
        return len(self._held)

    def resize(self, room: int) -> None:
        """Copies may take this many bytes from now on."""
        for shadow in self._shadows.values():
            shadow.room = room

    def missed(self, model: ModelId, size: int, weight: float = 0.0) -> None:
        """A load begins: callers ask for a model that is not held.

        The first use that is reported once it is held is theirs, and not counted again.

        Args:
            model: Its id.
            size: Its bytes, as predicted.
            weight: log2 of the cost of its load relative to the average.
        """
        self._use(model, size, weight)
        self._sure[model] = 1

    def add(self, model: ModelId, size: int, *, missed: bool) -> None:
        """A copy is held from now on; `missed`: `missed()` was called for its load."""
        if not missed:
            self._use(model, size, 0.0)
        self._held[model] = None
        for name, shadow in self._shadows.items():
            if not shadow.holds(model):
                self._outcasts[name][model] = None

    def remove(self, model: ModelId) -> None:
        """A copy is not held any more; what is known of the model's use stays."""
        self._held.pop(model, None)
        self._sure.pop(model, None)
        for outcasts in self._outcasts.values():
            outcasts.pop(model, None)

    def forget(self, model: ModelId) -> None:
        """The model was unregistered."""
        self.remove(model)
        for shadow in self._shadows.values():
            shadow.forget(model)

    def used(self, model: ModelId, size: int, count: int, weight: float = 0.0, *, most: int = REPEATED) -> None:
        """A held model was used `count` times since the last look, of which no more than `most` count."""
        count -= self._sure.pop(model, 0)
        for _ in range(min(count, most)):
            self._use(model, size, weight)

    def order(self) -> Iterator[ModelId]:
        """Held models, the least worth keeping first; read on only while nothing changes."""
        outcasts = self._outcasts[self.following]
        yield from outcasts
        for model in self._shadows[self.following].order():
            if model in self._held and model not in outcasts:
                yield model

    def _use(self, model: ModelId, size: int, weight: float) -> None:
        held = max(SMALLEST, len(self._held))
        if held != self._scaled:
            self._scaled = held
            self._decay = 0.5 ** (1.0 / (MEMORY_PER_HELD * held))
            for shadow in self._shadows.values():
                shadow.scale(held)
        decay = self._decay
        weight = max(-MOST_WEIGHT, min(MOST_WEIGHT, weight))
        cost = 2.0**weight
        self._now += 1
        self._counted = self._counted * decay + cost
        for name, shadow in self._shadows.items():
            hit, left = shadow.use(model, size, weight, self._now)
            self._missed[name] = self._missed[name] * decay + (0.0 if hit else cost)
            outcasts = self._outcasts[name]
            if model in outcasts and shadow.holds(model):
                del outcasts[model]
            for victim in left:
                if victim in self._held:
                    outcasts[victim] = None
        best = min(self._shadows, key=self._missed.__getitem__)
        if self._missed[best] + MARGIN * self._counted < self._missed[self.following]:
            self.following = best
