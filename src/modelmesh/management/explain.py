"""`modelmesh.v1.Admin/Explain`: why a model is where it is, and what one more load would do."""

import asyncio
from collections.abc import Iterable

from modelmesh._proto import admin_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.control.view.records import Registered, Stored
from modelmesh.policy.attempt import GiveUp, LoadHere, SendTo
from modelmesh.policy.places import describe_places
from modelmesh.ports import PeerUnreachableError
from modelmesh.values.events import Event
from modelmesh.values.explanation import ModelHistory, Rehearsal, SizeSource
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.records import DEFAULT_TYPE, ModelRecord
from modelmesh.values.view import ModelView

ASKED = 64
"""Instances whose memory is asked for; more would take longer than people wait."""

ANSWER_MS = 2_000
EVENTS = 256


async def explain(plane: ControlPlane, model: ModelId, registered: Registered, *, dry_run: bool) -> pb.ExplainResponse:
    """Put the answer together, but for the description of the model.

    Other instances are asked for what they remember, each for two seconds at most.
    """
    if dry_run:
        await plane.cache.predict(model, registered)
    source = plane.cache.size_source(model, registered.record.type)
    size = plane.cache.predicted_size(model, registered.record.type)
    histories, silent = await _histories(plane, model)
    answer = pb.ExplainResponse(
        size_bytes=size.bytes,
        size_is_measured=source is SizeSource.MEASURED,
        size_source=source.value,
        places=_places(plane, plane.decider.model_view(model, registered), size, registered.record.type),
        events=_merged(histories),
        silent_instance_ids=silent,
    )
    if dry_run:
        answer.plan.CopyFrom(await _plan(plane, model, registered, size))
    return answer


async def fit(plane: ControlPlane, size: Memory, model_type: str) -> pb.FitResponse:
    """Where a model that is not registered would go.

    Args:
        plane: The control plane.
        size: What its load would ask for.
        model_type: Its type; "": the default one.
    """
    model = ModelId("")
    registered: Registered = Stored(ModelRecord(type=model_type or DEFAULT_TYPE), Revision(0), Revision(0))
    return pb.FitResponse(
        places=_places(plane, ModelView(model), size, registered.record.type),
        plan=await _plan(plane, model, registered, size),
    )


def _places(plane: ControlPlane, model: ModelView, size: Memory, model_type: str) -> list[pb.Place]:
    places = describe_places(
        model,
        plane.decider.cluster_view(),
        size=size,
        model_type=model_type,
        constraints=plane.decider.constraints,
        now_ms=plane.clock.now_ms(),
    )
    return [pb.Place(instance_id=place.instance, verdict=place.reason.value, detail=place.detail) for place in places]


async def _histories(plane: ControlPlane, model: ModelId) -> tuple[list[ModelHistory], list[InstanceId]]:
    own = plane.identity.instance
    others = [entry.instance for entry in plane.decider.cluster_view().instances if entry.instance != own][:ASKED]
    found = await asyncio.gather(*(_ask(plane, instance, model) for instance in others))
    silent = [instance for instance, answer in zip(others, found, strict=True) if answer is None]
    return [plane.recall.history(model), *(answer for answer in found if answer is not None)], silent


async def _ask(
    plane: ControlPlane, instance: InstanceId, model: ModelId, load: Memory = NOTHING
) -> ModelHistory | None:
    """What another instance remembers; None if it does not answer."""
    address = plane.routing.address(instance)
    if address is None:
        return None
    try:
        return await plane.peers.recall(address, model, load=load, timeout_ms=ANSWER_MS)
    except PeerUnreachableError:
        return None


async def _plan(plane: ControlPlane, model: ModelId, registered: Registered, size: Memory) -> pb.Plan:
    step = plane.decider.rehearse(model, registered, size=size)
    match step:
        case GiveUp(_, message, reason):
            return pb.Plan(refusal=message, reason=reason.value)
        case LoadHere(reason, considered):
            instance = plane.identity.instance
            rehearsal: Rehearsal | None = plane.cache.rehearse(model, size)
        case SendTo(instance, _, reason, considered):
            asked = await _ask(plane, instance, model, size)
            rehearsal = asked.rehearsal if asked is not None else Rehearsal(f"instance {instance} does not answer")
        case _:
            raise AssertionError(step)  # one more copy is never served by those that stand
    rehearsal = rehearsal or Rehearsal()
    return pb.Plan(
        instance_id=instance,
        reason=reason.value,
        considered_instance_ids=considered,
        refusal=rehearsal.refusal,
        evict_bytes=rehearsal.evict.bytes,
        victims=victims(rehearsal),
    )


def victims(rehearsal: Rehearsal) -> list[pb.Victim]:
    """In wire form."""
    return [
        pb.Victim(
            model_id=victim.model, size_bytes=victim.size.bytes, last_use_ms=victim.last_use_ms, reason=victim.reason
        )
        for victim in rehearsal.victims
    ]


def wire_event(event: Event) -> pb.Event:
    """In wire form."""
    return pb.Event(
        time_ms=event.time_ms,
        instance_id=event.instance,
        model_id=event.model,
        kind=event.kind,
        reason=event.reason,
        detail=event.detail,
        cause_model_id=event.cause or "",
        times=event.times,
    )


def _merged(histories: Iterable[ModelHistory]) -> list[pb.Event]:
    """By time; hosts' clocks may differ, so the order between instances is roughly so."""
    events = [event for history in histories for event in history.events]
    return [wire_event(event) for event in sorted(events, key=lambda event: event.time_ms)[-EVENTS:]]
