"""Metrics for a StatsD listener on this host, by UDP.

Once a second what was counted since is sent: a counter as its sum, a histogram as the mean of each of its
buckets, with a sample rate for their number. So counts and sums are exact, percentiles as fine as
the buckets, and a call costs the same as under Prometheus. One observation a second is sent as it was.
Source: `spec/api-config-tests.md` 5.6.
"""

import contextlib
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families

from modelmesh.machines.meter import Meter
from modelmesh.ports import Clock
from modelmesh.values.metrics import BY_NAME, FAMILIES, Family, Kind, Source

PERIOD_MS = 1_000
PACKET_BYTES = 1_400
"""Fits into one Ethernet frame with its headers."""
OLD_UNIT_BYTES = 8_192
"""The old names report memory in units of 8 KiB."""

_PLAIN = {"/": "."} | dict.fromkeys(":|@#,=\\ ", "_")

Labels = Sequence[tuple[str, str]]
Buckets = Sequence[tuple[int, float]]


CORE_SCALARS = tuple(
    family.exposed for family in FAMILIES if family.source is Source.CORE and family.kind is not Kind.HISTOGRAM
)


class CoreSeries(Protocol):
    """The data plane, as far as it gives its series away."""

    def metrics(self, *, open_metrics: bool = False, names: Sequence[str] = ()) -> bytes:
        """Counters and gauges as text."""
        ...

    def take_metrics(self) -> Sequence[tuple[str, Labels, Buckets]]:
        """Name, labels, (observations, sum) of each bucket that has any."""
        ...


def lines(family: Family, labels: Labels, *, buckets: Buckets = (), value: float = 0, legacy: bool) -> Iterator[str]:
    """The messages for one series."""
    if legacy and not family.statsd_legacy:
        return
    match family.kind:
        case Kind.HISTOGRAM:
            yield from _observations(family, labels, buckets, legacy=legacy)
        case Kind.COUNTER if value:
            name = _legacy_name(family, labels) if legacy else _name(family.name, labels)
            yield f"{name}:{_number(value)}|c"
        case Kind.GAUGE if legacy:
            in_units = family.statsd_legacy in {"totalCapacity", "totalUsed"}
            yield f"{_legacy_name(family, labels)}:{_number(value // OLD_UNIT_BYTES if in_units else value)}|g"
        case Kind.GAUGE:
            yield f"{_name(family.name, labels)}:{_number(value)}|g"


def _observations(family: Family, labels: Labels, buckets: Buckets, *, legacy: bool) -> Iterator[str]:
    is_size = family.name.endswith("_bytes")
    # Times are those of successes; failures are only counted.
    if is_size or dict(labels).get("code", "OK") == "OK":
        name = _legacy_name(family, labels, with_code=is_size) if legacy else _name(family.name, labels)
        for observed, total in buckets:
            if observed:
                rate = f"|@{1 / observed:.6g}" if observed > 1 else ""
                yield f"{name}:{_number(total / observed)}|ms{rate}"
    count = sum(observed for observed, _ in buckets)
    if family.statsd_counter and count:
        if not legacy:
            yield f"{_name(family.statsd_counter, labels)}:{count}|c"
        elif family.labels:  # the others have one name for both
            yield f"{_legacy_name(family, labels, with_code=True)}:{count}|c"


def _name(name: str, labels: Labels) -> str:
    tags = ",".join(f"{label}={_plain(value)}" for label, value in reversed(labels) if value)
    return f"{name}_statsd#{tags}" if tags else f"{name}_statsd"


def _legacy_name(family: Family, labels: Labels, *, with_code: bool = False) -> str:
    values = dict(labels)
    code = f".{values['code']}" if with_code and "code" in values else ""
    return f"model-mesh.{family.statsd_legacy}{_plain(values.get('method', ''))}{code}"


def _plain(word: str) -> str:
    """A label's value in which nothing means anything to a StatsD listener: methods and models are named by others."""
    return "".join(_PLAIN.get(character, character) if character.isprintable() else "_" for character in word)


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def packets(messages: Iterable[str], *, legacy: bool) -> Iterator[bytes]:
    """Messages in as few packets as fit them. Old ones are separated by line ends, new ones end with one."""
    waiting = b""
    for message in messages:
        line = message.encode() + b"\n"
        if waiting and len(waiting) + len(line) > PACKET_BYTES:
            yield waiting.removesuffix(b"\n") if legacy else waiting
            waiting = b""
        waiting += line
    if waiting:
        yield waiting.removesuffix(b"\n") if legacy else waiting


class StatsdSender:
    """Sends until it is stopped. A missing receiver is no error."""

    def __init__(self, *, core: CoreSeries, meter: Meter, port: int, legacy: bool) -> None:
        self._core = core
        self._meter = meter
        self._address = ("127.0.0.1", port)
        self._legacy = legacy
        self._socket: socket.socket | None = None
        self._sent: dict[tuple[str, Labels], float] = {}
        """The last values of the core's counters."""

    async def run(self, clock: Clock) -> None:
        """Send every second."""
        while True:
            await clock.sleep(PERIOD_MS)
            self.send()

    def send(self) -> None:
        """Send what was counted since the last time."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.settimeout(0)
        for packet in packets(self._messages(), legacy=self._legacy):
            # A full buffer or an unreachable port loses this packet, as UDP may anyway.
            with contextlib.suppress(OSError):
                self._socket.sendto(packet, self._address)

    def _messages(self) -> Iterator[str]:
        for name, labels, buckets in self._core.take_metrics():
            yield from lines(BY_NAME[name], labels, buckets=buckets, legacy=self._legacy)
        text = self._core.metrics(names=CORE_SCALARS).decode()
        for metric in text_string_to_metric_families(text):
            family = BY_NAME[metric.name]
            for sample in metric.samples:
                labels = tuple(sample.labels.items())
                value = sample.value
                if family.kind is Kind.COUNTER:
                    value -= self._sent.get((metric.name, labels), 0)
                    self._sent[metric.name, labels] = sample.value
                yield from lines(family, labels, value=value, legacy=self._legacy)
        for reading in self._meter.take():
            yield from lines(
                reading.family, reading.labels, buckets=reading.buckets, value=reading.value, legacy=self._legacy
            )

    def close(self) -> None:
        """Send the rest and close."""
        self.send()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
