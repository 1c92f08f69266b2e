"""Whether loads fail at an instance that has just started: then it must not become ready, so that a rollout stops.

Source: the INTENT of `spec/cluster-state.md` 8.2. There the verdict was for ever; here loads that succeed lift it.
"""

from dataclasses import dataclass

FATAL_MOST = 2
"""Models that work elsewhere and fail here; one more is the verdict."""

ENOUGH = 20
"""Loads of which more than half must fail, when they are new models' everywhere."""

REDEEMED = 10
"""Loads in a row that must succeed to lift the verdict."""


@dataclass(slots=True)
class Bootstrap:
    """Counts the loads of the first minutes. Times are monotonic milliseconds."""

    until_ms: int
    failing: bool = False
    _fatal: int = 0
    _general: int = 0
    _loaded: int = 0
    _in_a_row: int = 0

    def loaded(self) -> None:
        """A load succeeded."""
        self._loaded += 1
        self._in_a_row += 1
        if self.failing and self._in_a_row >= REDEEMED:
            self.failing = False
            self._fatal = self._general = 0

    def failed(self, *, now_ms: int, works_elsewhere: bool, failed_before: bool, running: int) -> None:
        """A load failed.

        Args:
            now_ms: Now; failures after the first minutes say nothing about the start.
            works_elsewhere: Another instance has held the model for a while.
            failed_before: It failed long ago already, here or elsewhere: not this deployment's fault.
            running: Loads that run.
        """
        self._in_a_row = 0
        if now_ms >= self.until_ms:
            return
        if works_elsewhere:
            self._fatal += 1
        elif not failed_before:
            self._general += 1
        failures = self._fatal + self._general
        total = failures + self._loaded + running
        if self._fatal > FATAL_MOST or (total > ENOUGH and 2 * failures > total):
            self.failing = True
