"""The ten traces of the design notes, and others of the same kinds with other seeds and parameters.

A trace is a sequence of requests for models, each model with a size. All draws come from one seed.
"""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

REQUESTS = 20_000


@dataclass(frozen=True, slots=True)
class Trace:
    """`requests[i]` is the model of the i-th request; `sizes` in units of which `room` fit."""

    name: str
    requests: tuple[int, ...]
    sizes: dict[int, int]
    room: int


class _Zipf:
    """Draws ranks 0 … count - 1 with probability proportional to 1 / (rank + 1) ** skew."""

    def __init__(self, count: int, skew: float, rng: Random) -> None:
        self._rng = rng
        self._sums = list(itertools.accumulate((rank + 1) ** -skew for rank in range(count)))

    def rank(self) -> int:
        """One draw."""
        return bisect.bisect_left(self._sums, self._rng.random() * self._sums[-1])


def _shuffled(count: int, rng: Random) -> list[int]:
    ids = list(range(count))
    rng.shuffle(ids)
    return ids


def _sizes(requests: Sequence[int], rng: Random, *, mixed: bool) -> dict[int, int]:
    """1 each, or Pareto from 1 to 60."""
    return {model: min(60, int(rng.paretovariate(1.1))) if mixed else 1 for model in sorted(set(requests))}


def zipf(
    name: str,
    seed: int,
    *,
    skew: float = 0.9,
    models: int = 1000,
    room: int = 100,
    mixed: bool = False,
    length: int = REQUESTS,
) -> Trace:
    """Independent draws."""
    rng = Random(seed)  # noqa: S311 - a simulation
    draw, ids = _Zipf(models, skew, rng), _shuffled(models, rng)
    requests = tuple(ids[draw.rank()] for _ in range(length))
    return Trace(name, requests, _sizes(requests, rng, mixed=mixed), room)


def cyclic(
    name: str, seed: int, *, models: int = 120, room: int = 100, mixed: bool = False, length: int = REQUESTS
) -> Trace:
    """A loop over more models than fit."""
    rng = Random(seed)  # noqa: S311 - a simulation
    ids = _shuffled(models, rng)
    requests = tuple(ids[number % models] for number in range(length))
    return Trace(name, requests, _sizes(requests, rng, mixed=mixed), room)


def scanned(
    name: str, seed: int, *, skew: float = 0.9, share: float = 0.1, room: int = 100, length: int = REQUESTS
) -> Trace:
    """Zipf, with a share of the requests walking over 5,000 further models."""
    rng = Random(seed)  # noqa: S311 - a simulation
    draw, ids = _Zipf(1000, skew, rng), _shuffled(1000, rng)
    walk = itertools.cycle(range(1000, 6000))
    requests = tuple(next(walk) if rng.random() < share else ids[draw.rank()] for _ in range(length))
    return Trace(name, requests, _sizes(requests, rng, mixed=False), room)


def shifting(
    name: str,
    seed: int,
    *,
    skew: float = 1.0,
    every: int = 2000,
    by: int = 100,
    room: int = 100,
    mixed: bool = False,
    length: int = REQUESTS,
) -> Trace:
    """Zipf whose ranking moves."""
    rng = Random(seed)  # noqa: S311 - a simulation
    draw, ids = _Zipf(1000, skew, rng), _shuffled(1000, rng)
    requests = tuple(ids[(draw.rank() + number // every * by) % 1000] for number in range(length))
    return Trace(name, requests, _sizes(requests, rng, mixed=mixed), room)


def bursting(
    name: str,
    seed: int,
    *,
    skew: float = 1.0,
    every: int = 1700,
    walk: int = 300,
    room: int = 100,
    length: int = REQUESTS,
) -> Trace:
    """Zipf with a walk over further models now and then."""
    rng = Random(seed)  # noqa: S311 - a simulation
    draw, ids = _Zipf(1000, skew, rng), _shuffled(1000, rng)
    requests: list[int] = []
    while len(requests) < length:
        requests.extend(ids[draw.rank()] for _ in range(every))
        requests.extend(range(1000, 1000 + walk))
    cut = tuple(requests[:length])
    return Trace(name, cut, _sizes(cut, rng, mixed=False), room)


def ten(seed: int = 1) -> list[Trace]:
    """The ten of the design notes."""
    return [
        zipf("zipf_0.7", seed, skew=0.7),
        zipf("zipf_0.9", seed, skew=0.9),
        zipf("zipf_1.1", seed, skew=1.1),
        cyclic("cyclic_120", seed),
        scanned("zipf_0.9_scan", seed),
        shifting("shift", seed),
        bursting("zipf_1.0_burst", seed),
        zipf("mixed_zipf_0.9", seed, skew=0.9, room=300, mixed=True),
        cyclic("mixed_cyclic", seed, room=300, mixed=True),
        shifting("mixed_shift", seed, room=300, mixed=True),
    ]


def drawn(seed: int, count: int) -> list[Trace]:
    """Others of the same kinds, with parameters drawn from the seed."""
    rng = Random(seed)  # noqa: S311 - a simulation
    return [_drawn(str(number), rng.choice(KINDS), rng) for number in range(count)]


KINDS = ("zipf", "few", "cyclic", "scan", "shift", "burst")


def _drawn(number: str, kind: str, rng: Random) -> Trace:
    seed = rng.getrandbits(32)
    mixed = rng.random() < 0.3
    skew = rng.uniform(0.6, 1.2)
    units = rng.choice([60, 100, 200])
    room = units * (3 if mixed else 1)
    name = f"{number}_{'mixed_' if mixed else ''}{kind}_{skew:.2f}"
    match kind:
        case "zipf":
            return zipf(name, seed, skew=skew, room=room, mixed=mixed)
        case "few":
            return zipf(name, seed, skew=skew, models=300, room=room, mixed=mixed)
        case "cyclic":
            return cyclic(name, seed, models=units * rng.randrange(105, 200) // 100, room=room, mixed=mixed)
        case "scan":
            return scanned(name, seed, skew=skew, share=rng.uniform(0.05, 0.3), room=units)
        case "shift":
            return shifting(name, seed, skew=skew, every=rng.randrange(1000, 5000), room=room, mixed=mixed)
        case _:
            return bursting(name, seed, skew=skew, every=rng.randrange(1000, 3000), room=units)
