"""Events of the native core as values of `modelmesh.values.dataplane`."""

from collections.abc import Callable, Sequence
from typing import Any

from modelmesh._core import _native
from modelmesh.values.dataplane import (
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
    Span,
    Tapped,
    Traced,
)
from modelmesh.values.status import Status


def value_of(event: tuple[object, ...]) -> DataPlaneEvent:
    """The value of one tuple. Raises whatever is wrong with a tuple that the core does not make."""
    return _KINDS[event[0]](*event[1:])


# Elements of the core's tuples, in the order of the stub. The core has checked what they hold.


def _missed(
    token: Any,
    model: Any,
    vmodel: Any,
    method: str,
    timeout_ms: int | None,
    hop: str | None,
    tried: Sequence[Any],
    view: Any,
    balanced: bool,  # noqa: FBT001
) -> Missed:
    return Missed(
        token=token,
        model=model,
        vmodel=vmodel,
        method=method,
        timeout_ms=timeout_ms,
        hop=None if hop is None else Hop(hop),
        tried=tuple(tried),
        view=view,
        balanced=balanced,
    )


def _attempt_failed(
    token: Any,
    model: Any,
    vmodel: Any,
    instance: Any,
    load_id: Any,
    outcome: str,
    replayable: bool,  # noqa: FBT001
    begun: bool,  # noqa: FBT001
    status: int,
    message: str,
    view: Any,
) -> AttemptFailed:
    return AttemptFailed(
        token=token,
        model=model,
        vmodel=vmodel,
        instance=instance,
        load_id=load_id,
        outcome=Outcome(outcome),
        replayable=replayable,
        begun=begun,
        status=Status(status),
        message=message,
        view=view,
    )


def _called(
    token: Any,
    listener: str,
    peer_address: str,
    method: str,
    metadata: Sequence[tuple[str, bytes]],
    timeout_ms: int | None,
) -> Called:
    return Called(
        token=token,
        listener=listener,
        peer_address=peer_address,
        method=method,
        metadata=tuple(metadata),
        timeout_ms=timeout_ms,
    )


def _tapped(*elements: Any) -> Tapped:
    identifier, taps, model, vmodel, method, status, began_ms, duration_us, *rest = elements
    request_headers, response_headers, request_encoding, response_encoding, request, response = rest
    return Tapped(
        id=identifier,
        taps=taps,
        model=model,
        vmodel=vmodel,
        method=method,
        status=Status(status),
        began_ms=began_ms,
        duration_us=duration_us,
        request_headers=tuple(request_headers),
        response_headers=tuple(response_headers),
        request_encoding=request_encoding,
        response_encoding=response_encoding,
        request=tuple(request),
        response=tuple(response),
    )


def _logged(*elements: Any) -> Logged:
    invocation, identifier, model, vmodel, method, status, *rest = elements
    message, duration_us, attempts, request_bytes, response_bytes, headers = rest
    return Logged(
        invocation=invocation,
        id=identifier,
        model=model,
        vmodel=vmodel,
        method=method,
        status=Status(status),
        message=message,
        duration_us=duration_us,
        attempts=attempts,
        request_bytes=request_bytes,
        response_bytes=response_bytes,
        headers=tuple(headers),
    )


def _traced(trace: str, model: Any, vmodel: Any, method: str, spans: Sequence[Any]) -> Traced:
    return Traced(int(trace, 16), model, vmodel, method, tuple(_span(*span) for span in spans))


def _span(
    stage: str, identifier: int, parent: int, start_ns: int, end_ns: int, status: int | None, detail: str
) -> Span:
    return Span(stage, identifier, parent, start_ns, end_ns, None if status is None else Status(status), detail)


_KINDS: dict[object, Callable[..., DataPlaneEvent]] = {
    _native.MISSED: _missed,
    _native.ATTEMPT_FAILED: _attempt_failed,
    _native.CALLED: _called,
    _native.CALL_MESSAGE: CallMessage,
    _native.CANCELLED: Cancelled,
    _native.COPY_IDLE: CopyIdle,
    _native.LINK_LOST: LinkLost,
    _native.LINK_BACK: LinkBack,
    _native.TAPPED: _tapped,
    _native.LOGGED: _logged,
    _native.TRACED: _traced,
}
