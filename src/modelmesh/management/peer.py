"""`modelmesh.v1.Peer`: what other instances ask of this one. Peer port only."""

from collections.abc import Mapping

from modelmesh._proto import admin_pb2 as admin
from modelmesh._proto import peer_pb2 as pb
from modelmesh.control.copies.entry import (
    Accepted,
    Loaded,
    LoadFailed,
    LoadMoved,
    LoadRefused,
    LoadStoreAway,
    LoadVoid,
)
from modelmesh.control.plane import ControlPlane
from modelmesh.control.view.records import NotReadError
from modelmesh.management.calls import Call, Method, named_model
from modelmesh.management.explain import victims, wire_event
from modelmesh.management.usage import wire_usage
from modelmesh.management.vmodel_counts import wire_counts
from modelmesh.management.vmodels import checked_vmodel
from modelmesh.policy.attempt import Journey, LoadHere, Refuse
from modelmesh.ports import StoreError
from modelmesh.values import bounds
from modelmesh.values.dataplane import Hop, Outcome
from modelmesh.values.ids import Revision
from modelmesh.values.memory import NOTHING, Memory

_Answer = pb.EnsureLoadedResponse


class Peer:
    """Handlers of the service."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {
            "modelmesh.v1.Peer/EnsureLoaded": Method(pb.EnsureLoadedRequest, self.ensure_loaded),
            "modelmesh.v1.Peer/Recall": Method(pb.RecallRequest, self.recall),
            "modelmesh.v1.Peer/CountUsage": Method(pb.CountUsageRequest, self.count_usage),
            "modelmesh.v1.Peer/CountVModel": Method(admin.CountVModelRequest, self.count_vmodel),
            "modelmesh.v1.Peer/Ping": Method(pb.PingRequest, self.ping),
        }

    async def recall(self, _: Call, request: pb.RecallRequest) -> pb.RecallResponse:
        """Answer with the recent events of a model here."""
        found = self._plane.recall.history(
            named_model(request.model_id), load_size=Memory(bounds.BYTES.clamp(request.load_bytes))
        )
        answer = pb.RecallResponse(events=[wire_event(event) for event in found.events])
        if found.rehearsal is not None:
            answer.refusal = found.rehearsal.refusal
            answer.evict_bytes = found.rehearsal.evict.bytes
            answer.victims.extend(victims(found.rehearsal))
        return answer

    async def count_usage(self, _: Call, request: pb.CountUsageRequest) -> pb.CountUsageResponse:
        """Answer with what was used at this instance."""
        del request
        plane = self._plane
        usages = [wire_usage(one) for one in plane.dataplane.consumption()]
        return pb.CountUsageResponse(usages=usages, since_ms=plane.started_ms)

    async def count_vmodel(self, _: Call, request: admin.CountVModelRequest) -> admin.CountVModelResponse:
        """Answer with what was counted at this instance of the calls of a vmodel."""
        return wire_counts(self._plane.tallies.here(checked_vmodel(request.vmodel_id)))

    async def ping(self, _: Call, request: pb.PingRequest) -> pb.PingResponse:
        """Answer with the id of this instance."""
        del request
        self._plane.pinged()
        return pb.PingResponse(instance_id=self._plane.identity.instance)

    async def ensure_loaded(self, _: Call, request: pb.EnsureLoadedRequest) -> pb.EnsureLoadedResponse:
        """Load here, join, or refuse; never forwards."""
        plane = self._plane
        model = named_model(request.model_id)
        try:
            registered = await plane.models.get(model)
        except NotReadError as error:
            return _refused(Outcome.BUSY, str(error))
        except StoreError as error:
            return _refused(Outcome.STORE_AWAY, str(error))
        if registered is None:
            return _refused(Outcome.NOT_HERE, "model not found")
        step = plane.decider.next_step(Journey(hop=Hop.LOAD, retry=request.retry), model, registered)
        if isinstance(step, Refuse):
            if step.outcome is Outcome.LOAD_FAILED:
                return _Answer(state=_Answer.FAILED, message=step.message)
            return _refused(step.outcome, step.message)
        end = await plane.cache.ensure(
            model,
            registered,
            view=Revision(bounds.REVISION.clamp(request.view)) if request.view else plane.state.revision,
            caller=None,
            last_use_ms=bounds.TIME_MS.clamp(request.last_use_ms) or plane.clock.now_ms(),
            sync=request.sync,
            unload=step.unload if isinstance(step, LoadHere) else NOTHING,
        )
        if isinstance(end, Loaded):
            # With the revision, so that what the caller asks next of its view shows the copy as loaded.
            return _Answer(state=_Answer.LOADED, view=await plane.cache.until_published(model))
        return _ended(end)


def _ended(end: Accepted | LoadFailed | LoadMoved | LoadRefused | LoadVoid | LoadStoreAway) -> pb.EnsureLoadedResponse:
    match end:
        case Accepted(written):
            return _Answer(state=_Answer.LOADING, view=written)
        case LoadFailed(_, message):
            return _Answer(state=_Answer.FAILED, message=message)
        case LoadMoved(view):
            return _Answer(state=_Answer.REFUSED, refusal=Outcome.MOVED.value, view=view, message="the copies changed")
        case LoadRefused(outcome, message):
            return _refused(outcome, message)
        case LoadVoid():
            return _refused(Outcome.NOT_HERE, "model not found")
        case LoadStoreAway(message):
            return _refused(Outcome.STORE_AWAY, message)


def _refused(outcome: Outcome, message: str) -> pb.EnsureLoadedResponse:
    return _Answer(state=_Answer.REFUSED, refusal=outcome.value, message=message)
