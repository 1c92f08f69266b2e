"""What instances counted of the calls of the same vmodel, together."""

from collections.abc import Iterable

from modelmesh.values.ids import ModelId
from modelmesh.values.rollout import ModelCounts
from modelmesh.values.shadow import ShadowCounts
from modelmesh.values.vmodel_counts import VModelCounts


def added_up(counted: Iterable[VModelCounts]) -> VModelCounts:
    """One sum for each model, ordered by id. Of rollouts only the latest step counts: an instance may not know it yet."""
    known = tuple(counted)
    step = max((counts.step for counts in known), default=0)
    shadows: dict[ModelId, ShadowCounts] = {}
    models: dict[ModelId, ModelCounts] = {}
    for counts in known:
        for shadow in counts.shadows:
            before = shadows.get(shadow.model)
            shadows[shadow.model] = shadow if before is None else before.plus(shadow)
        for one in counts.of_step(step):
            counted_before = models.get(one.model)
            models[one.model] = one if counted_before is None else counted_before.plus(one)
    return VModelCounts(
        tuple(shadows[model] for model in sorted(shadows)), tuple(models[model] for model in sorted(models)), step
    )
