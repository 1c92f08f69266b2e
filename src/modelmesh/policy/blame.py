"""Which models are suspected when a runtime ended under calls for several.

Called by `modelmesh.control.copies.losses`. One call in a thousand ending its runtime is what every popular model sees when
the runtime ends for another reason. A model whose every call ends it has few calls.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from modelmesh.values.ids import ModelId

LEAST_SHARE = 0.01
"""A model is suspected only if so many of the calls that its copy had were lost."""

MOST_SUSPECTS = 64
"""Of models that are equally suspect no more are remembered for one loss."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A model with calls under way when the runtime ended: `lost` of them, after `answered` others on that copy."""

    model: ModelId
    lost: int
    answered: int

    @property
    def share(self) -> float:
        """Which part of its calls was lost."""
        return self.lost / (self.lost + max(0, self.answered))


def suspects(under_way: Iterable[UnderWay]) -> tuple[ModelId, ...]:
    """Those of which the greatest part of calls was lost, in the order given; none if that part is small for all."""
    models = [one for one in under_way if one.lost > 0]
    greatest = max((one.share for one in models), default=0.0)
    if greatest < LEAST_SHARE:
        return ()
    return tuple(one.model for one in models if one.share >= greatest)[:MOST_SUSPECTS]
