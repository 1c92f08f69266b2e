"""Answers to "why is it there?" and "what if?"."""

import enum
from dataclasses import dataclass

from modelmesh.values.events import Event
from modelmesh.values.ids import ModelId
from modelmesh.values.memory import NOTHING, Memory


class SizeSource(enum.Enum):
    """Where the size of a model comes from, the best source first."""

    MEASURED = "measured"
    PREDICTED = "predicted"
    ELSEWHERE = "elsewhere"
    TYPE_MEAN = "type_mean"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class RehearsedVictim:
    """A copy that would leave."""

    model: ModelId
    size: Memory
    last_use_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a load would do at one instance. `refusal`: why it would not be taken; "" if it would."""

    refusal: str = ""
    evict: Memory = NOTHING
    victims: tuple[RehearsedVictim, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelHistory:
    """What one instance remembers of a model, and, if it was asked, what a load there would do."""

    events: tuple[Event, ...] = ()
    rehearsal: Rehearsal | None = None
