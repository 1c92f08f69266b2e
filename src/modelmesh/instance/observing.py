"""Payload processors, log lines of calls and traces, put together from the settings."""

import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelmesh.adapters.dataplane.native import NativeDataPlane
from modelmesh.adapters.payloads.pipeline import Lane, Pipeline
from modelmesh.adapters.payloads.processors import LoggerProcessor, Processor
from modelmesh.adapters.telemetry.calls import CallLog
from modelmesh.adapters.telemetry.logs import LogLevel
from modelmesh.control.plane import ControlPlane
from modelmesh.instance.payload_choice import ProcessorChoice, parse_processors
from modelmesh.instance.settings import Settings, SettingsError
from modelmesh.machines.meter import Meter
from modelmesh.values.dataplane import DataPlaneEvent, Logged, Observing, Tapped, Traced

if TYPE_CHECKING:
    from modelmesh.adapters.telemetry.traces import Traces

SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
"""They go with payloads only when they are named."""


class SecretFile:
    """The value of a header, in a file that may be replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._modified_ns = 0
        self._text = ""

    def __call__(self) -> str:
        """The text as it is now; the last one if the file cannot be read."""
        try:
            modified_ns = self._path.stat().st_mtime_ns
            if modified_ns != self._modified_ns:
                self._text = self._path.read_text().strip()
                self._modified_ns = modified_ns
        except OSError:
            pass
        return self._text


@dataclass(slots=True)
class Observers:
    """Receivers of data about single calls."""

    observing: Observing
    call_log: CallLog
    pipeline: Pipeline
    traces: "Traces | None"

    def receive(self, events: Sequence[DataPlaneEvent]) -> None:
        """Take the events that are observations, and leave the others."""
        for event in events:
            match event:
                case Tapped():
                    self.pipeline.tapped(event)
                case Logged():
                    self.call_log.logged(event)
                case Traced() if self.traces is not None:
                    self.traces.traced(event)

    def start(self, plane: ControlPlane, dataplane: NativeDataPlane, level: LogLevel) -> None:
        """Start, and follow the live settings."""
        dataplane.observe(self.observing)
        if self.traces is not None:
            plane.journal.subscribe(self.traces.happened)
        usual = self.observing.log_invocations

        def log_invocations(value: str | None) -> None:
            if value not in {None, "true", "false"}:
                raise ValueError(f"it must be true or false, not {value!r}")
            self.observing = replace(self.observing, log_invocations=usual if value is None else value == "true")
            dataplane.observe(self.observing)

        plane.config.follow("log_each_invocation", log_invocations)
        plane.config.follow("logger_level", level.set)

    async def stop(self, dataplane: NativeDataPlane) -> None:
        """Process what was reported and is queued, for a few seconds at most."""
        dataplane.deliver()
        await self.pipeline.close()
        if self.traces is not None:
            await self.traces.close()


def choose_observers(settings: Settings, instance: str, meter: Meter) -> Observers:
    """Build the receivers of data about calls.

    Raises:
        SettingsError: A file cannot be read, or traces are on without the packages they need.
    """
    choices = parse_processors(settings.payload_processors)
    keys = header_keys(settings.log_request_headers)
    shown = None if "*" in settings.payload_headers else frozenset(settings.payload_headers)
    observing = Observing(
        taps=tuple(choice.tap for choice in choices),
        tap_headers=shown,
        tap_secrets=SECRET_HEADERS if shown is None else frozenset(),
        traced=settings.traces_fraction if settings.traces_endpoint else None,
        log_failed=settings.access_log != "off",
        log_all=settings.access_log == "all",
        log_invocations=settings.log_each_invocation,
        log_headers=tuple(keys),
    )
    traces = _traces(settings, instance) if settings.traces_endpoint else None
    lanes = _lanes(settings, choices, instance, meter)
    return Observers(observing, CallLog(instance, keys), Pipeline(lanes), traces)


def _lanes(settings: Settings, choices: Sequence[ProcessorChoice], instance: str, meter: Meter) -> tuple[Lane, ...]:
    tls = None
    secret = None
    try:
        if settings.payload_trusted_path is not None:
            tls = ssl.create_default_context(cafile=settings.payload_trusted_path)
        if settings.payload_authorization_path is not None:
            settings.payload_authorization_path.read_bytes()
            secret = SecretFile(settings.payload_authorization_path)
    except OSError as error:  # of TLS too
        raise SettingsError(f"a file for payload processors cannot be used: {error}") from error
    source = f"/modelmesh/{settings.service_name}/{instance}"

    def processor(choice: ProcessorChoice) -> Processor:
        if not choice.url:
            return LoggerProcessor()
        from modelmesh.adapters.payloads.http_processor import HttpProcessor  # noqa: PLC0415 - 8 MB that others save

        return HttpProcessor(
            choice.url, form=choice.form, batch=choice.batch, source=source, tls=tls, authorization=secret or str
        )

    return tuple(
        Lane(
            str(number),
            processor(choice),
            meter=meter,
            capacity=settings.payload_capacity,
            workers=settings.payload_threads,
            batch=choice.batch,
        )
        for number, choice in enumerate(choices, start=1)
    )


def _traces(settings: Settings, instance: str) -> "Traces":
    try:
        from modelmesh.adapters.telemetry.traces import Traces, otlp_exporter  # noqa: PLC0415 - an extra

        exporter = otlp_exporter(settings.traces_endpoint)
    except ImportError as error:
        raise SettingsError(
            f"MM_TRACES_ENDPOINT is set, but the package {error.name} is missing: pip install 'pymodelmesh[tracing]'"
        ) from error
    return Traces(exporter, service=settings.service_name, instance=instance, version=settings.version)


def header_keys(text: str) -> dict[str, str]:
    """The checked value of `MM_LOG_REQUEST_HEADERS`."""
    return {str(name).lower(): str(key) for name, key in json.loads(text).items()} if text else {}
