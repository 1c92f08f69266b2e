"""What instances count of the calls of one vmodel."""

from dataclasses import dataclass

from modelmesh.values.rollout import ModelCounts
from modelmesh.values.shadow import ShadowCounts


@dataclass(frozen=True, slots=True)
class VModelCounts:
    """At one instance, or at several together.

    shadows: Of each model that was to get copies of calls, ordered by id.
    models: How the models answered in a step of a rollout, ordered by id.
    step: When that step began, epoch milliseconds; 0: there is no rollout.
    """

    shadows: tuple[ShadowCounts, ...] = ()
    models: tuple[ModelCounts, ...] = ()
    step: int = 0

    def of_step(self, step: int) -> tuple[ModelCounts, ...]:
        """How the models answered in the step that began then."""
        return self.models if self.step == step else ()
