"""Payload processors: the grammar of their setting, what sinks read, and sinks that misbehave."""

import asyncio
import base64
import gzip
import json
import time

import pytest
from cloudevents.v1.http import from_http, from_json

from modelmesh.adapters.payloads import http_processor, pipeline
from modelmesh.adapters.payloads.formats import modelmesh_json, payloads
from modelmesh.adapters.payloads.http_processor import HttpProcessor
from modelmesh.adapters.payloads.pipeline import Lane, Pipeline
from modelmesh.adapters.payloads.processors import LoggerProcessor
from modelmesh.instance.payload_choice import ProcessorChoice, parse_processors
from modelmesh.instance.settings import SettingsError
from modelmesh.instance.sources import load_settings
from modelmesh.machines.meter import Meter
from modelmesh.testing.sinks import Sink
from modelmesh.values.dataplane import Tap, Tapped
from modelmesh.values.status import Status

METHOD = "mmesh.ExamplePredictor/predict"


def call(number: int = 0, *, request=((False, b"ask"),), response=((False, b"answer"),), **more) -> Tapped:
    return Tapped(
        **{
            "id": f"{number:032x}",
            "taps": 1,
            "model": "m",
            "vmodel": "v",
            "method": METHOD,
            "status": Status.OK,
            "began_ms": 1_700_000_000_000,
            "duration_us": 5_000,
            "request_headers": (("mm-vmodel-id", b"v"), ("twice", b"1"), ("twice", b"2"), ("x-bin", b"AAE")),
            "response_headers": (("served-by", b"r"),),
            "request_encoding": "",
            "response_encoding": "",
            "request": request,
            "response": response,
            **more,
        }
    )


# --- the setting ---


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("logger://*", ProcessorChoice("", Tap())),
        (
            f"logger:///*?myModel#{METHOD}",
            ProcessorChoice("", Tap(model="myModel", method=METHOD)),
        ),
        ("http://host:8080/consumer/kserve/v2", ProcessorChoice("http://host:8080/consumer/kserve/v2", Tap())),
        ("https://host/c?/m#predict", ProcessorChoice("https://host/c?/m", Tap(model="m", method="predict"))),
        ("http://host/c?*#*", ProcessorChoice("http://host/c?*", Tap())),
        ("http://host/c?/*", ProcessorChoice("http://host/c?/*", Tap())),
        (
            "http://host/c?m&vmodel=v&sample=0.01&format=cloudevents&batch=10",
            ProcessorChoice("http://host/c?m", Tap(model="m", vmodel="v", fraction=0.01), "cloudevents", 10),
        ),
        ("http://host/c?a=b%20c", ProcessorChoice("http://host/c?a=b%20c", Tap(model="a=b c"))),
        ("logger://?vmodel=a%26b", ProcessorChoice("", Tap(vmodel="a&b"))),
    ],
)
def test_understood(text: str, choice: ProcessorChoice) -> None:
    assert parse_processors(text) == (choice,)


def test_processors_are_separated_by_spaces() -> None:
    assert [choice.url for choice in parse_processors("logger://a  http://b/ ")] == ["", "http://b/"]
    assert parse_processors("") == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("kafka://host", "a processor is logger://, http://host… or https://host…"),
        ("http:///path", "a processor is"),
        ("http://host:port/", "is no URI"),
        ("http://[::1/", "is no URI"),
        ("http://h/?sample=2", "sample is '2'"),
        ("http://h/?sample=0", "sample is '0'"),
        ("http://h/?sample=nan", "sample is 'nan'"),
        ("http://h/?format=xml", "format is 'xml'"),
        ("http://h/?batch=0", "batch is '0'"),
        (" ".join(["logger://"] * 65), "at most 64"),
    ],
)
def test_what_cannot_be_used_ends_the_start(text: str, why: str) -> None:
    environment = {"MM_SERVICE_NAME": "s", "KV_STORE": "sqlite::memory:", "MM_PAYLOAD_PROCESSORS": text}
    with pytest.raises(SettingsError, match="MM_PAYLOAD_PROCESSORS: ") as error:
        load_settings(environment)
    assert why in str(error.value)


# --- what sinks read ---


def test_request_and_response_have_one_id_and_old_fields() -> None:
    request, response = map(modelmesh_json, payloads(call()))
    assert request == {
        "id": "0" * 32,
        "modelid": "m",
        "vModelId": "v",
        "data": base64.b64encode(b"ask").decode(),
        "kind": "request",
        "status": "",
        "metadata": {"mm-vmodel-id": "v", "twice": "2", "x-bin": "AAE"},
    }
    assert response["id"] == request["id"]
    assert (response["kind"], response["status"], response["metadata"]) == ("response", "OK", {"served-by": "r"})


def test_a_failed_call_of_several_models_has_neither_model_nor_data() -> None:
    failed = call(model="", vmodel=None, status=Status.INTERNAL, response=())
    response = modelmesh_json([*payloads(failed)][1])
    assert (response["modelid"], response["vModelId"], response["data"]) == (None, None, "")
    assert response["status"] == "INTERNAL"


def test_messages_of_a_stream_are_numbered() -> None:
    found = [modelmesh_json(payload) for payload in payloads(call(response=((False, b"a"), (False, b"b"))))]
    assert [(one["kind"], one.get("index")) for one in found] == [("request", None), ("response", 0), ("response", 1)]


def test_compressed_messages_are_expanded_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    zipped = gzip.compress(b"x" * 1000)
    compressed = call(request=((True, zipped),), request_encoding="gzip")
    assert next(payloads(compressed)).data == b"x" * 1000
    monkeypatch.setattr("modelmesh.adapters.payloads.formats.EXPANDED_BYTES_MAX", 999)
    assert next(payloads(compressed)).data == zipped, "a bomb stays as it came"
    damaged = call(request=((True, b"nonsense"),), request_encoding="gzip")
    assert next(payloads(damaged)).data == b"nonsense"


# --- over real connections ---


def lane(processor, meter: Meter, *, capacity=64, workers=2, batch=1) -> Lane:
    return Lane("1", processor, meter=meter, capacity=capacity, workers=workers, batch=batch)


def counted(meter: Meter) -> dict[str, int]:
    return {
        dict(reading.labels)["outcome"]: int(reading.value)
        for reading in meter.readings()
        if reading.family.name == "modelmesh_payloads"
    }


def http(sink: Sink, *, form="modelmesh", batch=1, **more) -> HttpProcessor:
    return HttpProcessor(f"{sink.url}/c", form=form, batch=batch, source="/modelmesh/s/i", **more)


async def test_cloud_events_are_what_their_own_library_reads() -> None:
    async with Sink() as sink:
        processor = http(sink, form="cloudevents", authorization=lambda: "Bearer x")
        await processor.process([call()])
        await processor.close()
    request, response = (from_http(posted.headers, posted.body) for posted in sink.posted)
    assert request["id"] == response["id"]
    assert request["type"] == "org.kubeflow.serving.inference.request"
    assert response["type"] == "org.kubeflow.serving.inference.response"
    assert (response["modelid"], response["vmodelid"], response["grpcstatus"]) == ("m", "v", "OK")
    assert response.data == b"answer"
    assert response["time"] == "2023-11-14T22:13:20.005+00:00"
    assert all(name == name.lower() and name.isalnum() for name in request.get_attributes())
    assert sink.posted[0].headers["content-type"] == "application/cloudevents+json"
    assert sink.posted[0].headers["authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("form", "content_type"),
    [("modelmesh", "application/json"), ("cloudevents", "application/cloudevents-batch+json")],
)
async def test_batches_are_one_post(form: str, content_type: str) -> None:
    async with Sink() as sink:
        processor = http(sink, form=form, batch=10)
        await processor.process([call(number) for number in range(3)])
        await processor.close()
    (posted,) = sink.posted
    assert posted.headers["content-type"] == content_type
    assert len(posted.json) == 6
    if form == "cloudevents":
        assert from_json(json.dumps(posted.json[0])).data == b"ask"


async def test_a_sink_that_fails_for_a_while_gets_it_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_processor, "PAUSES_S", (0.0, 0.0))
    meter = Meter()
    async with Sink(statuses=[503, 500, 200]) as sink:
        one = lane(http(sink), meter)
        one.offer(call(response=()))
        await one.close()
    assert len(sink.posted) == 4, "two failures, the request, the response"
    assert counted(meter) == {"sent": 1}


@pytest.mark.parametrize(("status", "attempts"), [(500, 3), (404, 1), (302, 1)])
async def test_attempts_are_bounded_and_made_only_where_they_may_help(
    monkeypatch: pytest.MonkeyPatch, status: int, attempts: int
) -> None:
    monkeypatch.setattr(http_processor, "PAUSES_S", (0.0, 0.0))
    meter = Meter()
    async with Sink(statuses=[status]) as sink:
        one = lane(http(sink), meter)
        one.offer(call())
        await one.close()
    assert len(sink.posted) == attempts
    assert counted(meter) == {"failed": 1}


async def test_a_sink_that_is_not_there_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_processor, "PAUSES_S", (0.0, 0.0))
    async with Sink() as gone:
        pass
    meter = Meter()
    one = lane(http(gone), meter)
    one.offer(call())
    await one.close()
    assert counted(meter) == {"failed": 1}


async def test_a_sink_that_hangs_keeps_its_workers_and_no_more_than_its_queue() -> None:
    meter = Meter()
    async with Sink(hangs=True) as hanging, Sink() as well:
        lanes = [lane(http(hanging), meter, capacity=4, workers=1), lane(http(well), Meter(), capacity=64)]
        both = Pipeline(lanes)
        for number in range(20):
            both.tapped(call(number, taps=3))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            while len(well.posted) < 40:
                await asyncio.sleep(0.01)
        began = time.monotonic()
        await lanes[1].close()
        await lanes[0].close(timeout_s=0.1)
        assert time.monotonic() - began < 5
    assert len(hanging.posted) == 1
    assert counted(meter) == {"dropped": 20}, "15 or 16 at the door, the rest when it ended"


async def test_large_payloads_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "QUEUED_BYTES_MAX", 25)
    meter = Meter()
    async with Sink(hangs=True) as hanging:
        one = lane(http(hanging), meter, workers=1)
        for number in range(4):
            one.offer(call(number, request=((False, b"x" * 10),), response=()))
        assert counted(meter) == {"dropped": 2}
        await one.close(timeout_s=0)


async def test_what_is_queued_when_the_instance_stops_is_sent() -> None:
    meter = Meter()
    async with Sink() as sink:
        one = lane(http(sink), meter)
        for number in range(30):
            one.offer(call(number))
        await one.close()
        one.offer(call())
    assert len(sink.posted) == 60
    assert {json.loads(posted.body)["id"] for posted in sink.posted} == {f"{number:032x}" for number in range(30)}
    assert counted(meter) == {"sent": 30, "dropped": 1}


async def test_the_logger_tells_everything_but_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    await LoggerProcessor().process([call()])
    lines = capsys.readouterr().out
    assert "status=request" in lines.replace("'", "") or "status" in lines
    assert METHOD in lines
    assert "answer" not in lines


async def test_losses_are_told_at_once_and_then_together(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter()
    async with Sink(hangs=True) as hanging:
        one = lane(http(hanging), meter, capacity=1, workers=1)
        for number in range(10):
            one.offer(call(number))
        await one.close(timeout_s=0)
    lines = [line for line in capsys.readouterr().out.splitlines() if "payloads_lost" in line]
    assert len(lines) == 2
