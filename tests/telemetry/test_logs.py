"""Log lines: levels that change while the process runs, headers that go with them, calls."""

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from modelmesh.adapters.telemetry.calls import CallLog, mapped
from modelmesh.adapters.telemetry.logs import JournalLog, LogLevel, configure_logs
from modelmesh.instance.settings import SettingsError
from modelmesh.instance.sources import load_settings
from modelmesh.values.dataplane import Logged
from modelmesh.values.events import Event
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status

LEAST = {"MM_SERVICE_NAME": "s", "KV_STORE": "sqlite::memory:"}


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    return output


@pytest.fixture
def level(output: io.StringIO) -> Iterator[LogLevel]:
    yield configure_logs(form="json", level="info")
    structlog.reset_defaults()


def lines(output: io.StringIO) -> list[dict]:
    found = [json.loads(line) for line in output.getvalue().splitlines()]
    output.seek(0)
    output.truncate()
    return found


def ended(**more: object) -> Logged:
    return Logged(
        **{
            "invocation": False,
            "id": "r1",
            "model": ModelId("m"),
            "vmodel": None,
            "method": "p.S/M",
            "status": Status.OK,
            "message": "",
            "duration_us": 1500,
            "attempts": 1,
            "request_bytes": 3,
            "response_bytes": 4,
            "headers": (),
            **more,
        }
    )


def test_a_level_may_change_while_loggers_live(level: LogLevel, output: io.StringIO) -> None:
    log = JournalLog("i", level)

    def told() -> list[str]:
        for kind in ("sent", "loaded", "load_failed"):
            log(Event(0, InstanceId("i"), ModelId("m"), kind, "", ""))
        return [line["event"] for line in lines(output)]

    assert told() == ["loaded", "load_failed"]
    level.set("DEBUG")
    assert told() == ["sent", "loaded", "load_failed"]
    level.set("warn")
    assert told() == ["load_failed"]
    level.set("OFF")
    assert told() == []
    with pytest.raises(ValueError, match="'loud' is no level"):
        level.set("loud")
    level.set(None)
    assert told() == ["loaded", "load_failed"]


def test_each_component_may_have_a_level_of_its_own(level: LogLevel, output: io.StringIO) -> None:
    log, calls = JournalLog("i", level), CallLog("i", {})

    def logged() -> list[tuple[str, str]]:
        for kind in ("sent", "victim", "loaded", "store_away", "drained"):
            log(Event(0, InstanceId("i"), ModelId("m"), kind, "", ""))
        calls.logged(ended())
        return [(line["component"], line["event"]) for line in lines(output)]

    level.set("warning, requests=debug, calls=INFO")
    assert logged() == [("requests", "sent"), ("store", "store_away"), ("calls", "call")]
    level.set("store=off,copies=debug")
    assert logged() == [("copies", "victim"), ("copies", "loaded"), ("instance", "drained"), ("calls", "call")]
    with pytest.raises(ValueError, match="'loads' is no component; there are calls, requests, copies"):
        level.set("info,loads=debug")
    with pytest.raises(ValueError, match="'' is no level"):
        level.set("info,copies=")


def test_lines_of_calls_carry_id_model_reason_and_headers(level: LogLevel, output: io.StringIO) -> None:
    log = CallLog("i", {"x-user": "user", "x-name-bin": "name"})
    log.logged(ended(headers=(("x-name-bin", "êñü".encode()), ("x-user", b"u"))))
    log.logged(ended(status=Status.NOT_FOUND, message="model not found", vmodel="v"))
    log.logged(ended(status=Status.INTERNAL, message="broken", model=ModelId("")))
    log.logged(ended(invocation=True))
    well, missing, broken, invoked = lines(output)
    assert (well["event"], well["level"], well["request_id"], well["model"]) == ("call", "info", "r1", "m")
    assert (well["user"], well["duration_ms"]) == ("u", 1.5)
    assert "reason" not in well
    assert (missing["event"], missing["level"], missing["status"]) == ("call_failed", "warning", "NOT_FOUND")
    assert (missing["reason"], missing["vmodel"], missing["instance"]) == ("model not found", "v", "i")
    assert (broken["level"], "model" in broken) == ("error", False)
    assert invoked["event"] == "invoking model runtime gRPC method: p.S/M"


def test_headers_are_decoded_bounded_and_in_the_order_of_the_setting() -> None:
    keys = {"b-bin": "b", "a": "a", "c": "c"}
    headers = (("a", b"x" * 5000), ("b-bin", b"w6rDscO8"), ("z", b"unlisted"))
    assert list(mapped(headers, keys).items()) == [("b", "êñü"), ("a", "x" * 1024)]
    assert mapped((("b-bin", b"YQpi"),), keys) == {"b": "a�b"}, "no line is ended"
    assert mapped((("b-bin", b"?"),), keys) == {"b": "?"}, "what is no base64 stays as it came"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no JSON"),
        ("[]", "must be a map"),
        ("{}", "must be a map"),
        ('{"a": 1}', "must be a map"),
        ('{"a": ""}', "must be a map"),
        ('{"a": "model"}', "keys of their own of these names: model"),
    ],
)
def test_a_header_map_that_cannot_be_used_ends_the_start(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match="MM_LOG_REQUEST_HEADERS: ") as error:
        load_settings({**LEAST, "MM_LOG_REQUEST_HEADERS": text})
    assert why in str(error.value)
