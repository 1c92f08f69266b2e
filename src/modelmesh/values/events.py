"""What happened at an instance, with the reason: entries of its journal."""

from dataclasses import dataclass

from modelmesh.values.ids import InstanceId, ModelId


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    `kind` and `reason` have few values; `detail` is for people. `cause`: the other model for which it happened.
    """

    time_ms: int
    instance: InstanceId
    model: ModelId
    kind: str
    reason: str
    detail: str
    cause: ModelId | None = None
    numbers: tuple[tuple[str, int], ...] = ()
    """What metrics observe of it; the names carry the units."""
    times: int = 1
    """How often it happened in a row, the last time at `time_ms`."""

    @property
    def about(self) -> tuple[object, ...]:
        """Its content without time and count. All progress events of a load are equal."""
        detail = "" if self.kind == "load_progress" else self.detail
        return (self.instance, self.model, self.kind, self.reason, detail, self.cause)
