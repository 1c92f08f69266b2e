"""`modelmesh.v1.Admin/SetShadow`: which model gets copies of a vmodel's calls."""

from collections.abc import Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, Method
from modelmesh.management.labels import Labels
from modelmesh.management.splits import describe
from modelmesh.management.vmodels import checked_vmodel
from modelmesh.policy.shadow import reshadow
from modelmesh.values.ids import ModelId
from modelmesh.values.shadow import Shadow


class Shadows:
    """The handler of the method. `labels` changes the records of vmodels."""

    def __init__(self, plane: ControlPlane, labels: Labels) -> None:
        self._plane = plane
        self._labels = labels

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {"modelmesh.v1.Admin/SetShadow": Method(pb.SetShadowRequest, self.set_shadow)}

    async def set_shadow(self, _: Call, request: pb.SetShadowRequest) -> pb.VModel:
        """Say which model gets copies of calls. Nothing is loaded: the first copies have it loaded."""
        vmodel = checked_vmodel(request.vmodel_id)
        shadow = None
        if request.HasField("shadow"):
            model = ModelId(request.shadow.model_id)
            await self._labels.check(model)
            shadow = Shadow(model, request.shadow.percent, request.shadow.compares)
        wanted = await self._labels.change(vmodel, lambda record: reshadow(vmodel, record, shadow, owner=request.owner))
        said = "none" if shadow is None else f"{shadow.percent} % to {shadow.model}"
        self._plane.journal.note("shadow_set", detail=f"{vmodel}: {said}")
        return describe(vmodel, wanted)
