"""What the small data plane in Python knows of vmodels, and counts of their calls."""

from collections.abc import Sequence

from modelmesh.values.dataplane import Naming
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.rollout import BUCKETS, ModelCounts, bucket
from modelmesh.values.shadow import ShadowCounts
from modelmesh.values.status import Status


class CalledNames:
    """The part of `ports.DataPlane` on vmodels. `shadowed` has what a test puts into it: no calls are copied."""

    shadowed: dict[VModelId, ShadowCounts]
    tallied: dict[VModelId, tuple[int, dict[ModelId, ModelCounts]]]
    _vmodels: dict[VModelId, Naming]

    def set_vmodels(self, vmodels: Sequence[tuple[VModelId, Naming | None]]) -> None:
        """See `ports.DataPlane`."""
        for vmodel, naming in vmodels:
            before = self.tallied.pop(vmodel, None)
            if naming is None:
                self._vmodels.pop(vmodel, None)
                continue
            self._vmodels[vmodel] = naming
            if naming.trial is not None:
                models = dict.fromkeys((naming.active, *(model for model, _ in naming.split)))
                fresh = {model: ModelCounts(model, times=(0,) * BUCKETS) for model in models}
                goes_on = before is not None and (before[0], [*before[1]]) == (naming.trial, [*fresh])
                self.tallied[vmodel] = before if before is not None and goes_on else (naming.trial, fresh)

    def shadows(self) -> Sequence[tuple[VModelId, ShadowCounts]]:
        """See `ports.DataPlane`."""
        return sorted(self.shadowed.items())

    def tallies_of(self, vmodel: VModelId) -> tuple[int, Sequence[ModelCounts]] | None:
        """See `ports.DataPlane`."""
        found = self.tallied.get(vmodel)
        return None if found is None else (found[0], [*found[1].values()])

    def namings(self) -> dict[VModelId, Naming]:
        """What vmodels stand for, as told last."""
        return dict(self._vmodels)

    def named(self, vmodel: VModelId, draw: int) -> ModelId:
        """The model of a call; empty if the vmodel is not known. `draw`: 0 to 99."""
        naming = self._vmodels.get(vmodel)
        if naming is None:
            return ModelId("")
        below = 0
        for model, percent in naming.split:
            below += percent
            if draw < below:
                return model
        return naming.active

    def fallback_of(self, vmodel: VModelId | None, model: ModelId) -> ModelId | None:
        """The other model that answers a call of a vmodel if `model` is cold or fails."""
        naming = self._vmodels.get(vmodel) if vmodel is not None else None
        return naming.fallback if naming is not None and naming.fallback != model else None

    def tally_call(self, vmodel: VModelId, model: ModelId, status: Status, took_ms: int) -> None:
        """A call of a vmodel has ended."""
        _, counts = self.tallied.get(vmodel, (0, {}))
        one = counts.get(model)
        if one is None or status is Status.CANCELLED:
            return
        index = bucket(1000 * took_ms)
        times = tuple(count + (status is Status.OK and at == index) for at, count in enumerate(one.times))
        counts[model] = ModelCounts(model, one.calls + 1, one.failed + (status is not Status.OK), times)
