"""Simple policies of the literature, for comparison: what one good idea reaches.

Each sees every request in order, in one cache of `room` units; a model larger than the room is always missed.
`optimum` is Belady's: it knows the future (and ignores sizes, so that with mixed sizes it is a reference only).
"""

import heapq
import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable

from modelmesh.testing.traces import Trace


def lru(trace: Trace) -> float:
    """The one unused longest leaves."""
    held: OrderedDict[int, None] = OrderedDict()
    used = hits = 0
    for model in trace.requests:
        size = trace.sizes[model]
        if model in held:
            hits += 1
            held.move_to_end(model)
            continue
        if size > trace.room:
            continue
        while used + size > trace.room:
            used -= trace.sizes[held.popitem(last=False)[0]]
        held[model] = None
        used += size
    return hits / len(trace.requests)


def _by_priority(trace: Trace, priority: "Callable[[int, int, float], float]") -> float:
    """The lowest priority leaves; `priority(model, now, floor)` is asked at each request of the model.

    `floor` is the highest priority that has left so far.
    """
    held: dict[int, float] = {}
    heap: list[tuple[float, int]] = []
    used = hits = 0
    floor = 0.0
    for now, model in enumerate(trace.requests):
        size = trace.sizes[model]
        rank = priority(model, now, floor)
        if model in held:
            hits += 1
        elif size > trace.room:
            continue
        else:
            while used + size > trace.room:
                value, victim = heapq.heappop(heap)
                if held.get(victim) == value:
                    del held[victim]
                    used -= trace.sizes[victim]
                    floor = max(floor, value)
            used += size
        held[model] = rank
        heapq.heappush(heap, (rank, model))
    return hits / len(trace.requests)


def lru_2(trace: Trace) -> float:
    """The one whose last use but one is longest ago leaves; uses are remembered after it left."""
    uses: dict[int, tuple[int, int]] = {}

    def priority(model: int, now: int, _: float) -> float:
        last = uses.get(model, (-1_000_000, -1_000_000))[1]
        uses[model] = (last, now)
        return last + now * 1e-9

    return _by_priority(trace, priority)


def gdsf(trace: Trace) -> float:
    """Frequency while held, by size, aged by what has left."""
    count: dict[int, int] = defaultdict(int)

    def priority(model: int, _: int, floor: float) -> float:
        count[model] += 1
        return floor + count[model] / trace.sizes[model]

    return _by_priority(trace, priority)


def decayed(half_life: int) -> Callable[[Trace], float]:
    """The lowest exponentially decayed rate by size leaves; rates are remembered."""

    def play(trace: Trace) -> float:
        rates: dict[int, tuple[float, int]] = {}

        def priority(model: int, now: int, _: float) -> float:
            rate, then = rates.get(model, (0.0, now))
            rate = rate * 0.5 ** ((now - then) / half_life) + 1
            rates[model] = (rate, now)
            # Comparable at any later moment: as if it had decayed since the beginning.
            return math.log2(rate / trace.sizes[model]) + now / half_life

        return _by_priority(trace, priority)

    return play


def s3_fifo(trace: Trace) -> float:  # noqa: C901, PLR0915 - one policy, read as a whole
    """A small queue for newcomers, a main queue for what was used again, a ghost queue of what left early."""
    small: OrderedDict[int, None] = OrderedDict()
    main: OrderedDict[int, None] = OrderedDict()
    ghost: OrderedDict[int, None] = OrderedDict()
    count: dict[int, int] = {}
    used = {"small": 0, "main": 0, "ghost": 0}
    hits = 0
    small_room = max(1, trace.room // 10)

    def evict() -> None:
        if used["small"] >= small_room or not main:
            while small:
                model = small.popitem(last=False)[0]
                used["small"] -= trace.sizes[model]
                if count[model] > 1:
                    main[model] = None
                    used["main"] += trace.sizes[model]
                    count[model] = 0
                    if used["main"] > trace.room - small_room:
                        break
                    continue
                del count[model]
                ghost[model] = None
                used["ghost"] += trace.sizes[model]
                while used["ghost"] > trace.room:
                    used["ghost"] -= trace.sizes[ghost.popitem(last=False)[0]]
                return
        while main:
            model = main.popitem(last=False)[0]
            if count[model] > 0:
                count[model] -= 1
                main[model] = None
                continue
            used["main"] -= trace.sizes[model]
            del count[model]
            return

    for model in trace.requests:
        size = trace.sizes[model]
        if model in count:
            hits += 1
            count[model] = min(3, count[model] + 1)
            continue
        if size > trace.room:
            continue
        while used["small"] + used["main"] + size > trace.room:
            evict()
        count[model] = 0
        if model in ghost:
            del ghost[model]
            used["ghost"] -= size
            main[model] = None
            used["main"] += size
        else:
            small[model] = None
            used["small"] += size
    return hits / len(trace.requests)


def w_tinylfu(trace: Trace) -> float:  # noqa: C901, PLR0912 - one policy, read as a whole
    """A window of one hundredth before a segmented main cache whose door compares counts, halved now and then."""
    window: OrderedDict[int, None] = OrderedDict()
    probation: OrderedDict[int, None] = OrderedDict()
    protected: OrderedDict[int, None] = OrderedDict()
    count: dict[int, int] = defaultdict(int)
    used = {"window": 0, "main": 0, "protected": 0}
    window_room = max(1, trace.room // 100)
    main_room = trace.room - window_room
    hits = seen = 0
    for model in trace.requests:
        size = trace.sizes[model]
        count[model] += 1
        seen += 1
        if seen >= 10 * trace.room:
            seen //= 2
            for known in list(count):
                count[known] //= 2
                if not count[known]:
                    del count[known]
        if model in window:
            hits += 1
            window.move_to_end(model)
        elif model in protected:
            hits += 1
            protected.move_to_end(model)
        elif model in probation:
            hits += 1
            del probation[model]
            protected[model] = None
            used["protected"] += size
            while used["protected"] > main_room * 8 // 10:
                demoted = protected.popitem(last=False)[0]
                used["protected"] -= trace.sizes[demoted]
                probation[demoted] = None
        elif size <= trace.room:
            window[model] = None
            used["window"] += size
            while used["window"] > window_room:
                candidate = window.popitem(last=False)[0]
                need = trace.sizes[candidate]
                used["window"] -= need
                while used["main"] + need > main_room:
                    victim = next(iter(probation), None)
                    if victim is None or need > main_room or count[candidate] <= count[victim]:
                        break
                    del probation[victim]
                    used["main"] -= trace.sizes[victim]
                else:
                    probation[candidate] = None
                    used["main"] += need
    return hits / len(trace.requests)


def optimum(trace: Trace) -> float:
    """The one whose next use is farthest away leaves."""
    next_use: list[int] = [0] * len(trace.requests)
    seen: dict[int, int] = {}
    for index in range(len(trace.requests) - 1, -1, -1):
        model = trace.requests[index]
        next_use[index] = seen.get(model, len(trace.requests) + index)
        seen[model] = index
    upcoming = deque(next_use)

    def priority(_: int, __: int, ___: float) -> float:
        return -float(upcoming.popleft())

    return _by_priority(trace, priority)


SIMPLE: dict[str, Callable[[Trace], float]] = {
    "lru": lru,
    "lru_2": lru_2,
    "gdsf": gdsf,
    "s3_fifo": s3_fifo,
    "w_tinylfu": w_tinylfu,
    "decayed_1000": decayed(1000),
    "decayed_5000": decayed(5000),
}
