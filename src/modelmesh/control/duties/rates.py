"""How much each copy of this instance is used: rates, waiting, latency, and what was long ago.

Fed from the data plane's batches of usage. Rates are over a window of seconds, so that a model that
becomes hot shows at once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from modelmesh.policy.copies import CopiesLimits, regular_use
from modelmesh.values.dataplane import Usage
from modelmesh.values.ids import ModelId
from modelmesh.values.records import HotCopy
from modelmesh.values.rounding import two_digits

WINDOW_MS = 10_000
PUBLISHED = 64
"""Hot copies published to other instances."""

SAMPLE = 64
"""Completed requests that make a latency; with fewer the sample before counts too."""

SAMPLE_MIN = 8
SATURATED_LOOKS = 2
"""Looks in a row at which requests waited; about a second apart."""


@dataclass(slots=True)
class _Use:
    requests: int = 0
    in_flight: int = 0
    waiting: int = 0
    waited_looks: int = 0
    completed: int = 0
    service_us: int = 0
    before_completed: int = 0
    before_service_us: int = 0
    earlier_ms: int | None = None
    last_ms: int | None = None
    regular: bool = False
    heavy_ms: int | None = None


class RateBook:
    """Use of each copy here that was used lately.

    Args:
        limits: The window of regular use and the share of the threshold that counts as heavy.
    """

    def __init__(self, limits: CopiesLimits) -> None:
        self.limits = limits
        self._uses: dict[ModelId, _Use] = {}
        self._window: deque[tuple[int, dict[ModelId, int]]] = deque()
        self._latest: dict[ModelId, int] = {}
        self._busy: dict[ModelId, None] = {}

    def apply(self, batch: Sequence[Usage]) -> None:
        """Take in what the data plane counted since the last look."""
        for model in self._busy:
            if (idle := self._uses.get(model)) is not None:
                idle.in_flight = idle.waiting = 0
        self._busy = {counted.model: None for counted in batch if counted.in_flight or counted.waiting}
        for counted in batch:
            use = self._uses.get(counted.model)
            if use is None:
                use = self._uses[counted.model] = _Use()
            use.in_flight, use.waiting = counted.in_flight, counted.waiting
            if counted.requests:
                self._latest[counted.model] = self._latest.get(counted.model, 0) + counted.requests
                use.requests += counted.requests
                use.completed += counted.requests
                use.service_us += counted.service_us

    def tick(self, now_ms: int) -> None:
        """Close a slice of the window; about once a second, monotonic milliseconds."""
        for model in self._latest:
            use = self._uses[model]
            use.regular, use.earlier_ms, use.last_ms = regular_use(use.earlier_ms, use.last_ms, now_ms, self.limits)
        for use in self._uses.values():
            use.waited_looks = use.waited_looks + 1 if use.waiting else 0
            if use.completed >= SAMPLE:
                use.before_completed, use.before_service_us = use.completed, use.service_us
                use.completed = use.service_us = 0
        self._window.append((now_ms, self._latest))
        self._latest = {}
        while self._window and self._window[0][0] <= now_ms - WINDOW_MS:
            _, counts = self._window.popleft()
            for model, count in counts.items():
                use_ = self._uses.get(model)
                if use_ is not None:
                    use_.requests -= count

    def keep(self, models: Sequence[ModelId]) -> None:
        """Forget all others: their copies no longer exist."""
        if len(self._uses) > len(models):
            held = dict.fromkeys(models)
            self._uses = {model: use for model, use in self._uses.items() if model in held}

    def note_heavy(self, model: ModelId, threshold: int | None, now_ms: int) -> None:
        """Remember when a model was last heavily used."""
        use = self._uses.get(model)
        if use is None or threshold is None:
            return
        if self.rate(model) > threshold - threshold // self.limits.heavy_divisor:
            use.heavy_ms = now_ms

    def used(self) -> tuple[ModelId, ...]:
        """Models with requests in the window, in flight or waiting."""
        return tuple(model for model, use in self._uses.items() if use.requests or use.in_flight or use.waiting)

    def in_flight(self) -> dict[ModelId, int]:
        """Calls at the runtime by model, at the last look."""
        return {model: use.in_flight for model, use in self._uses.items() if use.in_flight}

    def rate(self, model: ModelId) -> int:
        """Requests per minute over the window."""
        use = self._uses.get(model)
        return use.requests * 60_000 // WINDOW_MS if use is not None else 0

    def saturated(self, model: ModelId) -> bool:
        """Whether requests have waited at the gate for several looks."""
        use = self._uses.get(model)
        return use is not None and use.waited_looks >= SATURATED_LOOKS

    def regular(self, model: ModelId) -> bool:
        """Whether its latest use makes it regularly used."""
        use = self._uses.get(model)
        return use is not None and use.regular

    def heavy_ago_ms(self, model: ModelId, now_ms: int) -> int | None:
        """Since it was last heavily used; None: never since it is held."""
        use = self._uses.get(model)
        return None if use is None or use.heavy_ms is None else now_ms - use.heavy_ms

    def threshold(self, model: ModelId, *, max_concurrency: int, bandwidth_percent: int) -> int | None:
        """Requests per minute that one copy should take, in latency mode.

        `bandwidth_percent` of what `max_concurrency` requests at a time can do at the measured latency;
        the plain threshold while too few were measured, None if they take no time.
        """
        use = self._uses.get(model)
        if use is None:
            return self.limits.rate
        completed, service_us = use.completed, use.service_us
        if completed < SAMPLE:
            completed += use.before_completed
            service_us += use.before_service_us
        if completed < SAMPLE_MIN:
            return self.limits.rate
        if service_us == 0:
            return None
        return max(1, max_concurrency * completed * 600_000 * bandwidth_percent // service_us)

    def hottest(self, above: int) -> tuple[HotCopy, ...]:
        """What is published: copies with more than `above` requests per minute, the hottest first."""
        hot = [
            HotCopy(model, two_digits(rate), use.in_flight, use.waiting)
            for model, use in self._uses.items()
            if (rate := self.rate(model)) > above or use.waited_looks
        ]
        hot.sort(key=lambda copy: (-copy.rate, copy.model))
        return tuple(hot[:PUBLISHED])
