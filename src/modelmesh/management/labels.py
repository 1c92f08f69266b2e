"""`modelmesh.v1.Admin/SetLabels`: names for versions of a vmodel, and how many earlier ones are kept."""

from collections.abc import Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, CallError, Method, reading
from modelmesh.management.models import Models, not_registered, refuse_read_only
from modelmesh.management.splits import describe
from modelmesh.management.vmodels import WRITES, checked_vmodel, contended
from modelmesh.policy.labels import LabelsRefused, relabel
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status


class Labels:
    """The handler of the method."""

    def __init__(self, plane: ControlPlane, models: Models) -> None:
        self._plane = plane
        self._models = models

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {"modelmesh.v1.Admin/SetLabels": Method(pb.SetLabelsRequest, self.set_labels)}

    async def set_labels(self, _: Call, request: pb.SetLabelsRequest) -> pb.VModel:
        """Change the labels that are named, and how many earlier models are kept. Nothing is loaded."""
        vmodel = checked_vmodel(request.vmodel_id)
        labels = {one.label: ModelId(one.model_id) if one.model_id else None for one in request.labels}
        if len(labels) < len(request.labels):
            raise CallError(Status.INVALID_ARGUMENT, "a label is in the call twice")
        keep = request.keep if request.HasField("keep") else None
        for model in {model for model in labels.values() if model is not None}:
            if await self._models.read(model, fresh=True) is None:
                raise not_registered(model)
        for _attempt in range(WRITES):
            with reading():
                found = await self._plane.vmodels.read(vmodel)
            record = found.record if found is not None else None
            wanted = relabel(vmodel, record, labels, keep=keep, owner=request.owner)
            if isinstance(wanted, LabelsRefused):
                raise CallError(wanted.status, wanted.message)
            refuse_read_only(self._plane.limits.read_only)
            if await self._plane.vmodels.write(vmodel, found, wanted) is not None:
                said = ", ".join(f"{label}={model or ''}" for label, model in labels.items())
                self._plane.journal.note("labels_set", detail=f"{vmodel}: {said or 'none changed'}; {wanted.keep} kept")
                return describe(vmodel, wanted)
        raise contended(vmodel)
