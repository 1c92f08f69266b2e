"""`modelmesh.v1.Admin/SetRollout`: a model gets more of a vmodel's calls step by step, or all that is taken back."""

from collections.abc import Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, Method
from modelmesh.management.labels import Labels
from modelmesh.management.splits import Splits, describe
from modelmesh.management.vmodels import checked_vmodel
from modelmesh.policy.rollout import start, stop
from modelmesh.values.ids import ModelId
from modelmesh.values.rollout import Rollout


class Rollouts:
    """The handler of the method. `labels` changes the records of vmodels, `splits` loads models first."""

    def __init__(self, plane: ControlPlane, labels: Labels, splits: Splits) -> None:
        self._plane = plane
        self._labels = labels
        self._splits = splits

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {"modelmesh.v1.Admin/SetRollout": Method(pb.SetRolloutRequest, self.set_rollout)}

    async def set_rollout(self, _: Call, request: pb.SetRolloutRequest) -> pb.VModel:
        """Load the model and give it its first share; or end the rollout."""
        vmodel = checked_vmodel(request.vmodel_id)
        if not request.HasField("plan"):
            wanted = await self._labels.change(vmodel, lambda record: stop(vmodel, record, owner=request.owner))
            self._plane.journal.note("rollout_set", detail=f"{vmodel}: none")
            return describe(vmodel, wanted)
        plan = request.plan
        rollout = Rollout(
            ModelId(plan.model_id),
            tuple(plan.steps),
            minimum_calls=plan.minimum_calls,
            minimum_ms=plan.minimum_ms,
            error_hundredths=plan.error_hundredths,
            slower_percent=plan.slower_percent,
        )
        now_ms = self._plane.clock.now_ms
        # What is wrong with it is said before anything is loaded.
        await self._labels.check_change(
            vmodel, lambda record: start(vmodel, record, rollout, now_ms=now_ms(), owner=request.owner)
        )
        await self._splits.prepare(vmodel, [rollout.model], load=True)
        wanted = await self._labels.change(
            vmodel, lambda record: start(vmodel, record, rollout, now_ms=now_ms(), owner=request.owner)
        )
        steps = ", ".join(f"{percent} %" for percent in rollout.steps)
        self._plane.journal.note("rollout_set", rollout.model, detail=f"{vmodel}: {steps}")
        return describe(vmodel, wanted)
