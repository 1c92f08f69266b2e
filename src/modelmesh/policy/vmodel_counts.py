"""What instances counted of the calls of the same vmodel, together."""

from collections.abc import Iterable

from modelmesh.values.ids import ModelId
from modelmesh.values.shadow import ShadowCounts
from modelmesh.values.vmodel_counts import VModelCounts


def added_up(counted: Iterable[VModelCounts]) -> VModelCounts:
    """One sum for each model, ordered by id."""
    shadows: dict[ModelId, ShadowCounts] = {}
    for counts in counted:
        for one in counts.shadows:
            before = shadows.get(one.model)
            shadows[one.model] = one if before is None else before.plus(one)
    return VModelCounts(tuple(shadows[model] for model in sorted(shadows)))
