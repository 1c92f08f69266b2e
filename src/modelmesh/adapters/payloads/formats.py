"""A tapped call as the documents that sinks read: ModelMesh's JSON, or CloudEvents.

A unary call gives two payloads, a request and a response, with one id. Of a stream every message is a payload of
its own, numbered. Source: `spec/api-config-tests.md` 4; CloudEvents 1.0, JSON format; event types as KServe's.
"""

import base64
import datetime as dt
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelmesh.values.dataplane import Headers, Tapped
from modelmesh.values.status import Status

EXPANDED_BYTES_MAX = 64 << 20
"""A compressed message that grows beyond that is passed on as it came."""

_GZIP = 16 + zlib.MAX_WBITS

PayloadKind = Literal["request", "response"]


@dataclass(frozen=True, slots=True)
class Payload:
    """One message of a call. `index` is None unless the call has several in this direction."""

    call: Tapped
    kind: PayloadKind
    data: bytes
    index: int | None

    @property
    def time_ms(self) -> int:
        """When the call began, or ended."""
        return self.call.began_ms + (self.call.duration_us // 1000 if self.kind == "response" else 0)

    @property
    def headers(self) -> Headers:
        """Those that may be shown."""
        return self.call.request_headers if self.kind == "request" else self.call.response_headers

    @property
    def status(self) -> Status | None:
        """How the call ended; None for a request."""
        return self.call.status if self.kind == "response" else None


def payloads(call: Tapped) -> Iterator[Payload]:
    """The payloads of a call: the request's, then the response's."""
    sides: tuple[tuple[PayloadKind, Sequence[tuple[bool, bytes]], str], ...] = (
        ("request", call.request, call.request_encoding),
        ("response", call.response, call.response_encoding),
    )
    for kind, messages, encoding in sides:
        several = len(messages) > 1
        for index, (compressed, message) in enumerate(messages or ((False, b""),)):
            data = _expanded(message, encoding) if compressed else message
            yield Payload(call, kind, data, index if several else None)


def _expanded(message: bytes, encoding: str) -> bytes:
    if encoding != "gzip":
        return message
    expander = zlib.decompressobj(_GZIP)
    try:
        expanded = expander.decompress(message, EXPANDED_BYTES_MAX)
    except zlib.error:
        return message
    return message if expander.unconsumed_tail else expanded


def modelmesh_json(payload: Payload) -> dict[str, Any]:
    """As ModelMesh posted it, with the vmodel filled in."""
    document: dict[str, Any] = {
        "id": payload.call.id,
        "modelid": payload.call.model or None,
        "vModelId": payload.call.vmodel,
        "data": base64.b64encode(payload.data).decode(),
        "kind": payload.kind,
        "status": "" if payload.status is None else payload.status.name,
        "metadata": {name: value.decode(errors="replace") for name, value in payload.headers},
    }
    if payload.index is not None:
        document["index"] = payload.index
    return document


def cloud_event(payload: Payload, source: str) -> dict[str, Any]:
    """A CloudEvent. Request and response have one id, and types of their own."""
    call = payload.call
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": call.id if not payload.index else f"{call.id}.{payload.index}",
        "source": source,
        "type": f"org.kubeflow.serving.inference.{payload.kind}",
        "time": dt.datetime.fromtimestamp(payload.time_ms / 1000, dt.UTC).isoformat(timespec="milliseconds"),
        "datacontenttype": "application/x-protobuf",
        "method": call.method,
        "data_base64": base64.b64encode(payload.data).decode(),
    }
    if call.model:
        event["subject"] = event["modelid"] = call.model
    if call.vmodel is not None:
        event["vmodelid"] = call.vmodel
    if payload.status is not None:
        event["grpcstatus"] = payload.status.name
        event["durationus"] = min(call.duration_us, 2**31 - 1)
    if payload.headers:
        event["metadata"] = json.dumps(_texts(payload.headers))
    return event


def _texts(headers: Headers) -> Mapping[str, str]:
    return {name: value.decode(errors="replace") for name, value in headers}
