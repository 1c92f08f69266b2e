"""What StatsD is told: the wire format of the old system, read by a real UDP listener."""

import socket

import pytest

from modelmesh.adapters.telemetry.statsd import PACKET_BYTES, StatsdSender, lines, packets
from modelmesh.machines.meter import Meter
from modelmesh.values.metrics import BY_NAME

CALL = (("method", "p.S/predict"), ("code", "OK"))
FAILED = (("method", "p.S/predict"), ("code", "INTERNAL"))
REQUESTS = BY_NAME["modelmesh_api_request_milliseconds"]


class Core:
    """A data plane that has something to tell once."""

    def __init__(self) -> None:
        self.series = [(REQUESTS.name, CALL, [(1, 12.0), (4, 100.0)])]
        self.rejected = 3

    def metrics(self, *, open_metrics=False, names=()) -> bytes:
        return (
            "# TYPE modelmesh_rejected_requests_total counter\n"
            f'modelmesh_rejected_requests_total{{reason="bad-id"}} {self.rejected}\n'
            "# TYPE modelmesh_connections gauge\nmodelmesh_connections 2\n"
        ).encode()

    def take_metrics(self):
        taken, self.series = self.series, []
        return taken


def test_one_observation_is_sent_as_it_was_and_many_as_means_with_their_rate() -> None:
    found = [*lines(REQUESTS, CALL, buckets=[(1, 12.0), (4, 100.0)], legacy=False)]
    assert found == [
        "modelmesh_api_request_milliseconds_statsd#code=OK,method=p.S.predict:12|ms",
        "modelmesh_api_request_milliseconds_statsd#code=OK,method=p.S.predict:25|ms|@0.25",
        "modelmesh_api_request_statsd#code=OK,method=p.S.predict:5|c",
    ]


@pytest.mark.parametrize("legacy", [False, True])
def test_names_of_others_say_nothing_to_a_listener(legacy: bool) -> None:
    """A client that calls `/a:1|c#x=y,z@0.1/b` must not make a counter, a tag or another message."""
    odd = (("method", "a:1|c\n#x=y,z@0.1\\ \x00\u2028/b"), ("code", "OK"))
    for line in lines(REQUESTS, odd, buckets=[(1, 1.0)], legacy=legacy):
        name, _, value = line.rpartition(":")
        assert value in {"1|ms", "1|c"}
        plain = name.replace("code=OK,method=", "").replace("_statsd#", "")
        assert set(":|@#,=\n\\ \x00\u2028").isdisjoint(plain)
        assert plain.isprintable()


def test_times_are_told_of_what_went_well_only() -> None:
    assert [*lines(REQUESTS, FAILED, buckets=[(2, 12.0)], legacy=False)] == [
        "modelmesh_api_request_statsd#code=INTERNAL,method=p.S.predict:2|c"
    ]


def test_old_names() -> None:
    sizes = BY_NAME["modelmesh_request_size_bytes"]
    capacity = BY_NAME["modelmesh_instance_capacity_bytes"]
    assert [*lines(REQUESTS, CALL, buckets=[(1, 12.0)], legacy=True)] == [
        "model-mesh.api-p.S.predict:12|ms",
        "model-mesh.api-p.S.predict.OK:1|c",
    ]
    assert [*lines(sizes, FAILED, buckets=[(1, 7.0)], legacy=True)] == ["model-mesh.reqSize-p.S.predict.INTERNAL:7|ms"]
    assert [*lines(capacity, (), value=81_920, legacy=True)] == ["model-mesh.totalCapacity:10|g"]
    assert [*lines(BY_NAME["modelmesh_loadmodel_failure"], (), value=1, legacy=True)] == [
        "model-mesh.loadModel-failed:1|c"
    ]
    assert [*lines(BY_NAME["modelmesh_events"], (("kind", "x"),), value=1, legacy=True)] == [], "has no old name"


def test_packets_hold_as_much_as_fits() -> None:
    messages = ["x" * 300] * 10
    new, old = ([*packets(messages, legacy=legacy)] for legacy in (False, True))
    assert [len(packet) for packet in new] == [1204, 1204, 602]
    assert all(len(packet) <= PACKET_BYTES for packet in new)
    assert all(packet.endswith(b"\n") for packet in new)
    assert not any(packet.endswith(b"\n") for packet in old)


def test_a_listener_hears_each_count_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        meter = Meter(gauges=lambda: {"modelmesh_instance_models_total": 7})
        core = Core()
        sender = StatsdSender(core=core, meter=meter, port=listener.getsockname()[1], legacy=False)
        meter.count("modelmesh_evictions", "redundant", by=2)
        sender.send()
        first = listener.recv(PACKET_BYTES).decode().splitlines()
        assert {
            "modelmesh_api_request_statsd#code=OK,method=p.S.predict:5|c",
            "modelmesh_rejected_requests_statsd#reason=bad-id:3|c",
            "modelmesh_connections_statsd:2|g",
            "modelmesh_evictions_statsd#reason=redundant:2|c",
            "modelmesh_instance_models_total_statsd:7|g",
        } <= {*first}
        core.rejected = 4
        sender.send()
        assert sorted(listener.recv(PACKET_BYTES).decode().splitlines()) == [
            "modelmesh_connections_statsd:2|g",
            "modelmesh_instance_models_total_statsd:7|g",
            "modelmesh_rejected_requests_statsd#reason=bad-id:1|c",
        ]
        sender.close()


def test_nobody_listens_and_nothing_happens() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    sender = StatsdSender(core=Core(), meter=Meter(), port=port, legacy=False)
    for _ in range(3):
        sender.send()
    sender.close()
