"""Whether loads fail at an instance that has just started. If so, it must not become ready, so that a rollout stops.

Source: the INTENT of `spec/cluster-state.md` 8.2. There the verdict was forever; here loads that succeed lift it.
"""

from dataclasses import dataclass, field

from modelmesh.values.ids import ModelId

FATAL_MOST = 2
"""Models that work elsewhere and fail here; one more is the verdict."""

ENOUGH = 20
"""Models of which more than half must fail, when they are new models everywhere."""

ORIGINS = 2
"""Such models must come from so many places: one folder with bad files is no evidence against an instance."""

REDEEMED = 10
"""Loads in a row that must succeed to lift the verdict."""


@dataclass(slots=True)
class Bootstrap:
    """Counts the models of the first minutes, each once however often it is loaded. Times are monotonic milliseconds."""

    until_ms: int
    failing: bool = False
    _fatal: set[ModelId] = field(default_factory=set)
    _general: dict[ModelId, str] = field(default_factory=dict)
    _loaded: set[ModelId] = field(default_factory=set)
    _in_a_row: int = 0

    def loaded(self, model: ModelId, *, now_ms: int) -> None:
        """A load succeeded."""
        self._fatal.discard(model)
        self._general.pop(model, None)
        if now_ms < self.until_ms:
            self._loaded.add(model)
        self._in_a_row += 1
        if self.failing and self._in_a_row >= REDEEMED:
            self.failing = False
            self._fatal.clear()
            self._general.clear()

    def failed(
        self, model: ModelId, *, origin: str, now_ms: int, works_elsewhere: bool, failed_before: bool, running: int
    ) -> None:
        """A load failed.

        Args:
            model: Whose.
            origin: Where the model comes from: its type and the folder of its path.
            now_ms: Now; failures after the first minutes are not caused by the start.
            works_elsewhere: Another instance has held the model for a while.
            failed_before: It failed long ago already, here or elsewhere: not this deployment's fault.
            running: Loads that run.
        """
        self._in_a_row = 0
        if now_ms >= self.until_ms:
            return
        if works_elsewhere:
            self._fatal.add(model)
        elif not failed_before:
            self._general[model] = origin
        failed = self._fatal | self._general.keys()
        total = len(failed | self._loaded) + running
        spread = bool(self._fatal) or len(set(self._general.values())) >= ORIGINS
        if len(self._fatal) > FATAL_MOST or (spread and total > ENOUGH and 2 * len(failed) > total):
            self.failing = True
