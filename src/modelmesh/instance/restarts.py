"""When a child process that ended by itself is started again."""

from dataclasses import dataclass, field

FIRST_S = 1.0
LONGEST_S = 30.0
STEADY_S = 60.0
"""A child that ran so long before it ended is not held to be one that cannot start."""


@dataclass(slots=True)
class Restarts:
    """How long to wait before each start, doubled from one end to the next."""

    _started_s: dict[str, float] = field(default_factory=dict)
    _delays_s: dict[str, float] = field(default_factory=dict)

    def started(self, name: str, *, now_s: float) -> None:
        """A child was started."""
        self._started_s[name] = now_s

    def ended(self, name: str, *, now_s: float) -> float:
        """A child ended; returns the seconds to wait before it is started again."""
        ran_s = now_s - self._started_s.get(name, now_s)
        last_s = 0.0 if ran_s >= STEADY_S else self._delays_s.get(name, 0.0)
        delay_s = min(LONGEST_S, 2 * last_s) if last_s else FIRST_S
        self._delays_s[name] = delay_s
        return delay_s
