"""How long the load of a model takes that was not loaded yet, by its size: a line through the logarithms of sizes and times."""

import math

from modelmesh.values.memory import SMALLEST, Memory

COUNTED = 32
"""About so many loads teach, the latest counting most."""

SHORTEST_MS = 50
"""Loads shorter than this count the same."""

FLAT_VARIANCE = 0.01
"""Of log2 of the sizes: below it all sizes are alike and say nothing of times."""


class LoadTimes:
    """Learns from each load. Its estimate grows with the size at most in proportion, and never falls with it."""

    def __init__(self) -> None:
        self._loads = 0
        self._time = 0.0
        self._size = 0.0
        self._variance = 0.0
        self._covariance = 0.0

    @property
    def common_ms(self) -> int:
        """How long loads commonly take (a geometric mean); 0: there was none."""
        return round(2**self._time) if self._loads else 0

    def weight(self, took_ms: float) -> float:
        """log2 of a time relative to what is common, in whole steps: loads of about the same length count alike."""
        return float(round(math.log2(max(SHORTEST_MS, took_ms)) - self._time))

    def observe(self, size: Memory, took_ms: int) -> None:
        """A load of a model of that size took so long."""
        log_size, log_time = _log2(size), math.log2(max(SHORTEST_MS, took_ms))
        if not self._loads:
            self._size, self._time = log_size, log_time
        self._loads += 1
        share = 1 / min(self._loads, COUNTED)
        off_size, off_time = log_size - self._size, log_time - self._time
        self._size += share * off_size
        self._time += share * off_time
        self._variance = (1 - share) * (self._variance + share * off_size * off_size)
        self._covariance = (1 - share) * (self._covariance + share * off_size * off_time)

    def estimate_ms(self, size: Memory) -> int:
        """How long a load of a model of that size will take; 0: not known."""
        if not self._loads:
            return 0
        slope = self._covariance / self._variance if self._variance > FLAT_VARIANCE else 0.0
        slope = min(1.0, max(0.0, slope))
        return round(2 ** (self._time + slope * (_log2(size) - self._size)))


def _log2(size: Memory) -> float:
    """A slope needs one number."""
    return math.log2(size.at_least(SMALLEST).bytes)
