"""Spans as an OTLP receiver gets them."""

from opentelemetry.proto.trace.v1.trace_pb2 import Span as Otlp

from modelmesh.adapters.telemetry.traces import NS_PER_MS, Traces, otlp_exporter
from modelmesh.testing.sinks import Sink
from modelmesh.values.dataplane import Span, Traced
from modelmesh.values.events import Event
from modelmesh.values.ids import InstanceId, ModelId, VModelId
from modelmesh.values.status import Status

START_MS = 1_700_000_000_000


def span(stage: str, number: int, parent: int, start_ms: int, end_ms: int, status=None, detail="") -> Span:
    start_ns, end_ns = ((START_MS + at) * NS_PER_MS for at in (start_ms, end_ms))
    return Span(stage, number, parent, start_ns, end_ns, status, detail)


def happened(kind: str, at_ms: int, model: str = "m", detail: str = "") -> Event:
    return Event(START_MS + at_ms, InstanceId("i"), ModelId(model), kind, "", detail)


async def export(*calls: Traced, events: tuple[Event, ...] = ()) -> dict[str, list[Otlp]]:
    async with Sink() as sink:
        traces = Traces(otlp_exporter(f"{sink.url}/v1/traces"), service="s", instance="i", version="1")
        for event in events:
            traces.happened(event)
        for call in calls:
            traces.traced(call)
        await traces.close()
        found: dict[str, list[Otlp]] = {}
        for one in sink.spans():
            found.setdefault(one.name, []).append(one)
    return found


async def test_stages_are_children_of_the_call_and_name_their_instance() -> None:
    call = Traced(
        0xABC,
        ModelId("m"),
        VModelId("v"),
        "p.S/M",
        (
            span("hop", 2, 1, 1, 8, Status.UNAVAILABLE, "i2"),
            span("infer", 3, 1, 8, 9, Status.OK, "i"),
            span("call", 1, 77, 0, 10, Status.NOT_FOUND),
        ),
    )
    found = await export(call)
    (server,), (hop,), (infer,) = found["p.S/M"], found["modelmesh.hop"], found["modelmesh.infer"]
    assert server.trace_id == hop.trace_id == (0xABC).to_bytes(16)
    assert (server.span_id, server.parent_span_id) == ((1).to_bytes(8), (77).to_bytes(8))
    assert (server.kind, hop.kind) == (Otlp.SPAN_KIND_SERVER, Otlp.SPAN_KIND_CLIENT)
    assert hop.parent_span_id == infer.parent_span_id == server.span_id
    attributes = {pair.key: pair.value for pair in hop.attributes}
    assert attributes["modelmesh.instance"].string_value == "i2"
    assert attributes["modelmesh.vmodel"].string_value == "v"
    assert attributes["rpc.grpc.status_code"].int_value == 14
    assert (hop.status.code, hop.status.message) == (2, "UNAVAILABLE")
    assert server.status.code == 0, "a missing model is the caller's mistake"
    assert infer.end_time_unix_nano - infer.start_time_unix_nano == NS_PER_MS


async def test_the_load_a_call_waited_for_is_a_child_of_its_wait() -> None:
    call = Traced(
        1,
        ModelId("m"),
        None,
        "p.S/M",
        (span("hold", 2, 1, 0, 100, detail="served"), span("call", 1, 0, 0, 110, Status.OK)),
    )
    events = (
        happened("load_started", -500),
        happened("load_failed", -400, detail="too early"),
        happened("load_started", 10),
        happened("load_started", 20, "other"),
        happened("loaded", 90),
        happened("loaded", 95, "other"),
        happened("load_started", 200),
    )
    found = await export(call, events=events)
    (load,), (hold,) = found["modelmesh.load"], found["modelmesh.hold"]
    assert load.parent_span_id == hold.span_id
    assert (load.end_time_unix_nano - load.start_time_unix_nano) // NS_PER_MS == 80
    assert not found["p.S/M"][0].parent_span_id
