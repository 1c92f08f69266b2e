"""The shadow of a vmodel: a model that gets copies of a part of its calls, and answers no caller."""

from dataclasses import dataclass
from typing import Any

from modelmesh.values.bounds import Range
from modelmesh.values.ids import ModelId
from modelmesh.values.stored import RecordError, take

PERCENT = Range(1, 100)
"""Of a vmodel's calls that are copied."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """`percent` of the calls are copied to `model`. `compares`: its answers are compared with those that the callers got."""

    model: ModelId
    percent: int
    compares: bool = False

    def fields(self) -> dict[str, Any]:
        """The stored form."""
        return {"model": self.model, "percent": self.percent, "compares": self.compares}

    @classmethod
    def of_fields(cls, value: object) -> "Shadow | None":
        """Read the stored form; what is absent or empty is no shadow. Raises RecordError."""
        if not value:
            return None
        if not isinstance(value, dict):
            raise RecordError("shadow is not an object")
        known = dict(value)
        model = take(known, "model", str, "")
        percent = take(known, "percent", int, 0)
        if not model or PERCENT.clamp(percent) != percent:
            raise RecordError("shadow has no model, or not 1 to 100 percent")
        return cls(ModelId(model), percent, take(known, "compares", bool, default=False))


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """Calls that were to be copied to a model: how many had which result.

    answered: The model answered; its answer was not compared.
    equal, different: It answered as the caller was answered, or otherwise.
    failed: Its call ended with another status than OK, or not in time.
    cold: No copy of the model was ready.
    dropped: There was no room for it.
    stream: The call was no single message, so it was not copied.
    """

    model: ModelId
    answered: int = 0
    equal: int = 0
    different: int = 0
    failed: int = 0
    cold: int = 0
    dropped: int = 0
    stream: int = 0

    def plus(self, other: "ShadowCounts") -> "ShadowCounts":
        """Both together, of the same model."""
        return ShadowCounts(
            self.model,
            answered=self.answered + other.answered,
            equal=self.equal + other.equal,
            different=self.different + other.different,
            failed=self.failed + other.failed,
            cold=self.cold + other.cold,
            dropped=self.dropped + other.dropped,
            stream=self.stream + other.stream,
        )
