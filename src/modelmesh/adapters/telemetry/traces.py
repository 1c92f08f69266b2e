"""Spans of traced calls, exported by OpenTelemetry: what the core timed, and the loads that calls waited for.

Needs the extra `tracing`; imported only when traces are on.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace import Status as SpanStatus
from opentelemetry.trace.status import StatusCode

from modelmesh.values.dataplane import Span, Traced
from modelmesh.values.events import Event
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status

LOADS_KEPT = 4096
EXPORT_TIMEOUT_S = 5
NS_PER_MS = 1_000_000

_SERVER_ERRORS = frozenset(
    {
        Status.UNKNOWN,
        Status.DEADLINE_EXCEEDED,
        Status.UNIMPLEMENTED,
        Status.INTERNAL,
        Status.UNAVAILABLE,
        Status.DATA_LOSS,
    }
)
"""What OpenTelemetry's conventions for gRPC servers call an error; for clients everything but OK is."""

_KINDS = {"call": SpanKind.SERVER, "hop": SpanKind.CLIENT, "infer": SpanKind.CLIENT}
_DETAILS = {"hold": "modelmesh.decision", "hop": "modelmesh.instance", "infer": "modelmesh.instance"}


@dataclass(frozen=True, slots=True)
class _Load:
    model: ModelId
    start_ns: int
    end_ns: int
    failure: str


class Traces:
    """Turns traced calls into spans and exports them in batches, from a thread of the SDK.

    Args:
        exporter: Where they go; a slow one loses spans, bounded by the SDK's queue.
    """

    def __init__(self, exporter: SpanExporter, *, service: str, instance: str, version: str) -> None:
        self._resource = Resource.create(
            {"service.name": service, "service.instance.id": instance, "service.version": version or "unknown"}
        )
        self._processor = BatchSpanProcessor(exporter)
        self._loading: dict[ModelId, int] = {}
        self._loads: deque[_Load] = deque(maxlen=LOADS_KEPT)
        self._ids = iter(range(1, 1 << 62))

    def happened(self, event: Event) -> None:
        """An event of the journal; loads are remembered for the calls that waited for them."""
        match event.kind:
            case "load_started":
                self._loading[event.model] = event.time_ms * NS_PER_MS
            case "loaded" | "load_failed" | "load_not_begun":
                start_ns = self._loading.pop(event.model, None)
                if start_ns is not None:
                    failure = "" if event.kind == "loaded" else event.detail
                    self._loads.append(_Load(event.model, start_ns, event.time_ms * NS_PER_MS, failure))

    def traced(self, call: Traced) -> None:
        """A traced call has ended."""
        for span in call.spans:
            self._processor.on_end(self._span(call, span))
            if span.stage == "hold":
                for load in self._waited_for(call.model, span):
                    self._processor.on_end(self._load_span(call, span, load))

    def _waited_for(self, model: ModelId, hold: Span) -> Iterator[_Load]:
        for load in self._loads:
            if load.model == model and load.start_ns <= hold.end_ns and load.end_ns >= hold.start_ns - NS_PER_MS:
                yield load

    def _span(self, call: Traced, span: Span) -> ReadableSpan:
        service, _, method = call.method.rpartition("/")
        attributes: dict[str, Any] = {"modelmesh.model": call.model}
        if call.vmodel is not None:
            attributes["modelmesh.vmodel"] = call.vmodel
        kind = _KINDS.get(span.stage, SpanKind.INTERNAL)
        if kind is not SpanKind.INTERNAL:
            attributes |= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        if span.status is not None:
            attributes["rpc.grpc.status_code"] = int(span.status)
        if span.detail and span.stage in _DETAILS:
            attributes[_DETAILS[span.stage]] = span.detail
        errors = span.status in _SERVER_ERRORS if kind is SpanKind.SERVER else span.status not in {None, Status.OK}
        return self._readable(
            call,
            name=call.method if span.stage == "call" else f"modelmesh.{span.stage}",
            span_id=span.id,
            parent=span.parent,
            # The call's own parent is the sender's span; all others are children of the call here.
            remote_parent=span.stage == "call",
            kind=kind,
            attributes=attributes,
            start_ns=span.start_ns,
            end_ns=span.end_ns,
            error=span.status.name if errors and span.status is not None else "",
        )

    def _load_span(self, call: Traced, hold: Span, load: _Load) -> ReadableSpan:
        return self._readable(
            call,
            name="modelmesh.load",
            span_id=(hold.id + next(self._ids)) % (1 << 64) or 1,
            parent=hold.id,
            remote_parent=False,
            kind=SpanKind.INTERNAL,
            attributes={"modelmesh.model": call.model},
            start_ns=load.start_ns,
            end_ns=load.end_ns,
            error=load.failure,
        )

    def _readable(
        self,
        call: Traced,
        *,
        name: str,
        span_id: int,
        parent: int,
        remote_parent: bool,
        kind: SpanKind,
        attributes: dict[str, Any],
        start_ns: int,
        end_ns: int,
        error: str,
    ) -> ReadableSpan:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return ReadableSpan(
            name=name,
            context=SpanContext(call.trace, span_id, is_remote=False, trace_flags=flags),
            parent=SpanContext(call.trace, parent, is_remote=remote_parent, trace_flags=flags) if parent else None,
            resource=self._resource,
            attributes=attributes,
            kind=kind,
            status=SpanStatus(StatusCode.ERROR, error) if error else SpanStatus(StatusCode.UNSET),
            start_time=start_ns,
            end_time=end_ns,
        )

    async def close(self) -> None:
        """Export what is left, for a few seconds at most."""
        await asyncio.to_thread(self._processor.shutdown)


def otlp_exporter(endpoint: str) -> SpanExporter:
    """An exporter for OTLP over HTTP."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - heavy

    return OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)
