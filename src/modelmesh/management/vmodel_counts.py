"""`modelmesh.v1.Admin/CountVModel`: what all instances together counted of the calls of a vmodel."""

from collections.abc import Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, Method
from modelmesh.management.vmodels import checked_vmodel
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
        counts, silent = await self._plane.tallies.everywhere(checked_vmodel(request.vmodel_id))
        answer = wire_counts(counts)
        answer.silent_instance_ids.extend(silent)
        return answer


def wire_counts(counts: VModelCounts) -> pb.CountVModelResponse:
    """In wire form."""
    return pb.CountVModelResponse(shadows=[_wire_shadow(one) for one in counts.shadows])


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
