"""`modelmesh.v1.Console`: what the console in a browser shows and does. It may do what its caller may do, no more."""

import json
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToJson, Parse, ParseError

from modelmesh._proto import console_pb2 as pb
from modelmesh.control.plane import ControlPlane
from modelmesh.management.calls import Call, CallError, Method
from modelmesh.management.overview import instances_now, loads_now, wire
from modelmesh.management.rights import NEEDS
from modelmesh.values.events import Event
from modelmesh.values.legacy import full_names
from modelmesh.values.status import Status

EVENTS = 1_000
"""Events that are kept for pages that come late, or come back."""

EVENTS_SENT = 200
"""Of one answer; the older ones are left out."""

FRESH_MS = 900
"""An overview is made once for all pages that ask within this."""

LARGEST_REQUEST = 65_536

ADMIN = (
    "ListModels",
    "ListVModels",
    "CountVModel",
    "ListInstances",
    "Explain",
    "Fit",
    "SetCopies",
    "UnloadModel",
    "SetSplit",
)
MESH = ("getModelStatus", "ensureLoaded", "setVModel", "getVModelStatus")


class Console:
    """Handlers of the service.

    Args:
        plane: Whose cluster it is.
        methods: Of the services that pages may call, by full name.
    """

    def __init__(self, plane: ControlPlane, methods: Mapping[str, Method]) -> None:
        self._plane = plane
        full = {f"modelmesh.v1.Admin/{name}" for name in ADMIN} | {full_names(name)[0] for name in MESH}
        self._methods = {name.partition("/")[2]: (name, methods[name]) for name in full}
        self._events: deque[tuple[int, Event]] = deque(maxlen=EVENTS)
        self._last = 0
        self._overview: dict[str, Any] = {}
        self._made_ms: int | None = None
        plane.journal.subscribe(self._note)

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {
            "modelmesh.v1.Console/Ask": Method(pb.AskRequest, self.ask),
            "modelmesh.v1.Console/Look": Method(pb.LookRequest, self.look),
        }

    async def ask(self, call: Call, request: pb.AskRequest) -> pb.AskResponse:
        """Make a call for the page, with the rights of its caller."""
        known = self._methods.get(request.method)
        if known is None:
            raise CallError(Status.NOT_FOUND, f"the console has no method {request.method[:64]!r}")
        if len(request.json) > LARGEST_REQUEST:
            raise CallError(Status.INVALID_ARGUMENT, f"the request is larger than {LARGEST_REQUEST} characters")
        name, method = known
        assert method.unary is not None
        try:
            message = Parse(request.json or "{}", method.request(), max_recursion_depth=16)
        except ParseError as error:
            raise CallError(Status.INVALID_ARGUMENT, f"{request.method}: {error}") from error
        call.require(*NEEDS[name](message))
        answer = await method.unary(call, message)
        return pb.AskResponse(json=MessageToJson(answer, preserving_proto_field_name=True, indent=None))

    async def look(self, _: Call, request: pb.LookRequest) -> pb.LookResponse:
        """How the cluster looks, and the events after the one that was seen last."""
        now_ms = self._plane.clock.monotonic_ms()
        if self._made_ms is None or now_ms - self._made_ms >= FRESH_MS:
            self._overview, self._made_ms = self._look(), now_ms
        # After a restart of this instance its numbers begin again.
        since = request.since if request.since <= self._last else 0
        events = [wire(number, event) for number, event in self._events if number > since][-EVENTS_SENT:]
        answer = {**self._overview, "events": events}
        return pb.LookResponse(last=self._last, json=json.dumps(answer, separators=(",", ":")))

    def _note(self, event: Event) -> None:
        self._last += 1
        self._events.append((self._last, event))

    def _look(self) -> dict[str, Any]:
        plane = self._plane
        view = plane.decider.cluster_view()
        waiting: Counter[str] = plane.requests.waiting()
        held, held_bytes = plane.dataplane.held()
        return {
            "now_ms": plane.clock.now_ms(),
            "instance": plane.identity.instance,
            "version": plane.identity.version,
            "instances": instances_now(view, plane.state.copies()),
            "loads": loads_now(plane.state.copies(), waiting, plane.cache.progress, plane.identity.instance),
            "waiting": [{"model": model, "calls": calls} for model, calls in waiting.most_common(50)],
            "held": {"calls": held, "bytes": held_bytes},
        }
