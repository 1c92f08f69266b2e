"""`modelmesh.v1.Admin/SetLabels` and `SetFallback`: versions and fallback of a vmodel.

Versions have names, and some of the earlier ones are kept. The fallback answers while the wanted model is not loaded.
"""

from collections.abc import Callable, Mapping

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, CallError, Method, reading
from modelmesh.management.models import Models, not_registered, refuse_read_only
from modelmesh.management.splits import describe
from modelmesh.management.vmodels import WRITES, checked_vmodel, contended
from modelmesh.policy.fallback import refallback
from modelmesh.policy.labels import VModelRefused, relabel
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.status import Status


class Labels:
    """The handlers of the methods."""

    def __init__(self, plane: ControlPlane, models: Models) -> None:
        self._plane = plane
        self._models = models

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {
            "modelmesh.v1.Admin/SetLabels": Method(pb.SetLabelsRequest, self.set_labels),
            "modelmesh.v1.Admin/SetFallback": Method(pb.SetFallbackRequest, self.set_fallback),
        }

    async def set_labels(self, _: Call, request: pb.SetLabelsRequest) -> pb.VModel:
        """Change the labels that are named, and how many earlier models are kept. Nothing is loaded."""
        vmodel = checked_vmodel(request.vmodel_id)
        labels = {one.label: ModelId(one.model_id) if one.model_id else None for one in request.labels}
        if len(labels) < len(request.labels):
            raise CallError(Status.INVALID_ARGUMENT, "a label is in the call twice")
        keep = request.keep if request.HasField("keep") else None
        for model in {model for model in labels.values() if model is not None}:
            await self.check(model)
        wanted = await self.change(
            vmodel, lambda record: relabel(vmodel, record, labels, keep=keep, owner=request.owner)
        )
        said = ", ".join(f"{label}={model or ''}" for label, model in labels.items())
        self._plane.journal.note("labels_set", detail=f"{vmodel}: {said or 'none changed'}; {wanted.keep} kept")
        return describe(vmodel, wanted)

    async def set_fallback(self, _: Call, request: pb.SetFallbackRequest) -> pb.VModel:
        """Say which model answers while no copy of the wanted one is ready. Nothing is loaded."""
        vmodel = checked_vmodel(request.vmodel_id)
        fallback = ModelId(request.model_id) if request.model_id else None
        if fallback is not None:
            await self.check(fallback)
        wanted = await self.change(vmodel, lambda record: refallback(vmodel, record, fallback, owner=request.owner))
        self._plane.journal.note("fallback_set", detail=f"{vmodel}: {fallback or 'none'}")
        return describe(vmodel, wanted)

    async def check(self, model: ModelId) -> None:
        """Refuse a model that is not registered."""
        if await self._models.read(model, fresh=True) is None:
            raise not_registered(model)

    async def check_change(
        self, vmodel: VModelId, decide: Callable[[VModelRecord | None], VModelRecord | VModelRefused]
    ) -> None:
        """Refuse what `change` would refuse now."""
        with reading():
            found = await self._plane.vmodels.read(vmodel)
        wanted = decide(found.record if found is not None else None)
        if isinstance(wanted, VModelRefused):
            raise CallError(wanted.status, wanted.message)
        refuse_read_only(self._plane.limits.read_only)

    async def change(
        self, vmodel: VModelId, decide: Callable[[VModelRecord | None], VModelRecord | VModelRefused]
    ) -> VModelRecord:
        """Decide on what stands and write; again if somebody else was faster. The record."""
        for _attempt in range(WRITES):
            with reading():
                found = await self._plane.vmodels.read(vmodel)
            wanted = decide(found.record if found is not None else None)
            if isinstance(wanted, VModelRefused):
                raise CallError(wanted.status, wanted.message)
            refuse_read_only(self._plane.limits.read_only)
            if await self._plane.vmodels.write(vmodel, found, wanted) is not None:
                return wanted
        raise contended(vmodel)
