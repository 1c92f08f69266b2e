"""`modelmesh.v1.Admin/CountVModel`: what all instances together counted of the calls of a vmodel."""

from collections.abc import Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, Method, reading
from modelmesh.management.vmodels import checked_vmodel
from modelmesh.policy.rollout import failed_loads, judge, time_us
from modelmesh.values.rollout import ModelCounts
from modelmesh.values.shadow import ShadowCounts
from modelmesh.values.vmodel_counts import VModelCounts


class CountCalls:
    """The handler of the method."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {"modelmesh.v1.Admin/CountVModel": Method(pb.CountVModelRequest, self.count_vmodel)}

    async def count_vmodel(self, _: Call, request: pb.CountVModelRequest) -> pb.CountVModelResponse:
        """Add up what the instances counted."""
        vmodel = checked_vmodel(request.vmodel_id)
        with reading():
            found = await self._plane.vmodels.read(vmodel)
        counts, silent = await self._plane.tallies.everywhere(vmodel)
        answer = wire_counts(counts)
        answer.silent_instance_ids.extend(silent)
        for model, one in zip(counts.models, answer.models, strict=True):
            one.p95_us = time_us(model)
        if found is not None and (rollout := found.record.rollout) is not None and rollout.running:
            now_ms = self._plane.clock.now_ms()
            counted = counts.of_step(rollout.since_ms)
            failed = failed_loads(self._plane.decider.model_view(rollout.model, None), None, now_ms=now_ms)
            verdict = judge(rollout, found.record, counted, silent=len(silent), now_ms=now_ms, failed=failed)
            answer.verdict = verdict.text
        return answer


def wire_counts(counts: VModelCounts) -> pb.CountVModelResponse:
    """In wire form."""
    return pb.CountVModelResponse(
        shadows=[_wire_shadow(one) for one in counts.shadows],
        models=[_wire_model(one) for one in counts.models],
        step_since_ms=counts.step,
    )


def _wire_model(counts: ModelCounts) -> pb.ModelCount:
    return pb.ModelCount(model_id=counts.model, calls=counts.calls, failed=counts.failed, times=counts.times)


def _wire_shadow(counts: ShadowCounts) -> pb.ShadowCount:
    return pb.ShadowCount(
        model_id=counts.model,
        answered=counts.answered,
        equal=counts.equal,
        different=counts.different,
        failed=counts.failed,
        cold=counts.cold,
        dropped=counts.dropped,
        stream=counts.stream,
    )
