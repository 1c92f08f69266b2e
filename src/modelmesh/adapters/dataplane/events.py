"""Events of the native core as values of `modelmesh.values.dataplane`.

Ids are text on both sides; here they get their types. Words and numbers become members of their enums.
"""

from typing import assert_never

from modelmesh._core import _native
from modelmesh.values.access import Identity, Listener
from modelmesh.values.dataplane import (
    Asked,
    AttemptFailed,
    Called,
    CallMessage,
    Cancelled,
    CopyIdle,
    DataPlaneEvent,
    Hop,
    LinkBack,
    LinkLost,
    Logged,
    Missed,
    Outcome,
    Overdue,
    Span,
    Tapped,
    Traced,
    Wanted,
)
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision, Token, VModelId
from modelmesh.values.priority import Priority
from modelmesh.values.status import Status

NativeEvent = (
    _native.Missed
    | _native.AttemptFailed
    | _native.Overdue
    | _native.Wanted
    | _native.Called
    | _native.Asked
    | _native.CallMessage
    | _native.Cancelled
    | _native.CopyIdle
    | _native.LinkLost
    | _native.LinkBack
    | _native.Tapped
    | _native.Logged
    | _native.Traced
)


def value_of(event: NativeEvent) -> DataPlaneEvent:  # noqa: C901, PLR0912 - one row per event
    """The value of one event. Raises ValueError for a word that only the core knows."""
    match event:
        case _native.Missed():
            return _missed(event)
        case _native.Overdue():
            return Overdue(Token(event.token), ModelId(event.model), _vmodel(event.vmodel), event.until_deadline)
        case _native.Wanted():
            fallback = ModelId(event.fallback) if event.fallback is not None else None
            return Wanted(ModelId(event.model), VModelId(event.vmodel or ""), fallback, event.failure)
        case _native.AttemptFailed():
            return _attempt_failed(event)
        case _native.Called():
            return Called(
                token=Token(event.token),
                port=event.port,
                peer_address=event.peer_address,
                method=event.method,
                metadata=tuple(event.metadata),
                timeout_ms=event.timeout_ms,
                listener=Listener(event.listener),
                identity=_identity(event.identity),
            )
        case _native.Asked():
            return Asked(Token(event.token), event.certificate, event.credential)
        case _native.CallMessage():
            return CallMessage(Token(event.token), event.message)
        case _native.Cancelled():
            return Cancelled(Token(event.token))
        case _native.CopyIdle():
            return CopyIdle(ModelId(event.model), LoadId(event.load_id))
        case _native.LinkLost():
            return LinkLost(InstanceId(event.instance))
        case _native.LinkBack():
            return LinkBack(InstanceId(event.instance))
        case _native.Tapped():
            return _tapped(event)
        case _native.Logged():
            return _logged(event)
        case _native.Traced():
            spans = tuple(_span(span) for span in event.spans)
            return Traced(event.trace, ModelId(event.model), _vmodel(event.vmodel), event.method, spans)
        case _:
            assert_never(event)


def _vmodel(vmodel: str | None) -> VModelId | None:
    return None if vmodel is None else VModelId(vmodel)


def _identity(given: tuple[str, list[str], str] | None) -> Identity | None:
    if given is None:
        return None
    name, groups, tenant = given
    return Identity(name, tuple(groups), tenant)


def _view(view: int | None) -> Revision | None:
    return None if view is None else Revision(view)


def _missed(event: _native.Missed) -> Missed:
    hop = event.hop
    return Missed(
        token=Token(event.token),
        model=ModelId(event.model),
        vmodel=_vmodel(event.vmodel),
        method=event.method,
        timeout_ms=event.timeout_ms,
        hop=None if hop is None else Hop(hop),
        tried=tuple(InstanceId(instance) for instance in event.tried),
        view=_view(event.view),
        balanced=event.balanced,
        priority=Priority.parse(event.priority),
    )


def _attempt_failed(event: _native.AttemptFailed) -> AttemptFailed:
    return AttemptFailed(
        token=Token(event.token),
        model=ModelId(event.model),
        vmodel=_vmodel(event.vmodel),
        instance=InstanceId(event.instance),
        load_id=LoadId(event.load_id),
        outcome=Outcome(event.outcome),
        replayable=event.replayable,
        begun=event.begun,
        status=Status(event.status),
        message=event.message,
        view=_view(event.view),
        priority=Priority.parse(event.priority),
    )


def _tapped(event: _native.Tapped) -> Tapped:
    return Tapped(
        id=event.id,
        taps=event.taps,
        model=ModelId(event.model),
        vmodel=_vmodel(event.vmodel),
        method=event.method,
        status=Status(event.status),
        began_ms=event.began_ms,
        duration_us=event.duration_us,
        request_headers=tuple(event.request_headers),
        response_headers=tuple(event.response_headers),
        request_encoding=event.request_encoding,
        response_encoding=event.response_encoding,
        request=tuple(event.request),
        response=tuple(event.response),
    )


def _logged(event: _native.Logged) -> Logged:
    return Logged(
        invocation=event.invocation,
        id=event.id,
        model=ModelId(event.model),
        vmodel=_vmodel(event.vmodel),
        method=event.method,
        status=Status(event.status),
        message=event.message,
        duration_us=event.duration_us,
        attempts=event.attempts,
        request_bytes=event.request_bytes,
        response_bytes=event.response_bytes,
        headers=tuple(event.headers),
    )


def _span(span: _native.Span) -> Span:
    status = span.status
    return Span(
        span.stage,
        span.id,
        span.parent,
        span.start_ns,
        span.end_ns,
        None if status is None else Status(status),
        span.detail,
    )
