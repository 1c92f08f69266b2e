"""Builds metrics, payloads, traces and logs of an instance from the settings."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from modelmesh.adapters.clock import SystemClock
from modelmesh.adapters.dataplane.native import NativeDataPlane
from modelmesh.adapters.telemetry.exposition import Exposition, InfoMetric
from modelmesh.adapters.telemetry.statsd import StatsdSender
from modelmesh.control.duties.counting import Gauges, count_event
from modelmesh.control.plane import ControlPlane
from modelmesh.instance.metrics_choice import MetricsChoice, UnknownChoiceError, parse_info, parse_metrics
from modelmesh.instance.settings import Settings, SettingsError
from modelmesh.machines.meter import Meter
from modelmesh.values.events import Event
from modelmesh.values.ids import ModelId

if TYPE_CHECKING:
    from modelmesh.adapters.http.metrics import MetricsServer


@dataclass(slots=True)
class Metrics:
    """The metrics of an instance and their exporters."""

    choice: MetricsChoice
    meter: Meter
    info: InfoMetric | None
    dataplane: NativeDataPlane | None = None
    server: "MetricsServer | None" = None
    statsd: StatsdSender | None = None

    def forget(self, model: ModelId) -> None:
        """The model is no longer registered: its series go."""
        self.meter.forget(model)
        if self.dataplane is not None:
            self.dataplane.forget_series(model)

    async def start(self, settings: Settings, plane: ControlPlane, dataplane: NativeDataPlane) -> None:
        """Count from now on, and let it be read. Raises OSError if the port is in use."""
        self.dataplane = dataplane
        self.meter.read_gauges_from(
            Gauges(
                cache=plane.cache,
                state=plane.state,
                leader=plane.leader,
                rollouts=plane.rollouts,
                census=plane.census,
                clock=plane.clock,
            )
        )
        plane.journal.subscribe(self._count)
        match self.choice.kind:
            case "prometheus":
                from modelmesh.adapters.http.metrics import MetricsServer  # noqa: PLC0415 - what others do not need

                exposition = Exposition(core=dataplane, meter=self.meter, info=self.info, process=self.choice.process)
                self.server = MetricsServer(
                    exposition,
                    host=settings.listen_host,
                    port=self.choice.port,
                    https=self.choice.https,
                    log_requests=settings.log_scrapes,
                )
                await self.server.start()
            case "statsd":
                self.statsd = StatsdSender(
                    core=dataplane, meter=self.meter, port=self.choice.port, legacy=self.choice.legacy
                )
                plane.tasks.start(self.statsd.run(SystemClock()), "send metrics")

    def _count(self, event: Event) -> None:
        count_event(self.meter, event)
        if event.kind == "unloaded" and event.reason == "unregistered":
            self.forget(event.model)  # its unload was the last thing to count

    async def stop(self) -> None:
        """Export the last values and close; the data plane must still be open."""
        if self.server is not None:
            await self.server.stop()
        if self.statsd is not None:
            self.statsd.close()


def choose_metrics(settings: Settings) -> Metrics:
    """Read the settings of metrics.

    Raises:
        SettingsError: The info metric cannot be made.
    """
    log = structlog.get_logger("modelmesh")
    try:
        choice = parse_metrics(settings.metrics)
    except UnknownChoiceError as error:
        log.error("metrics_disabled", detail=f"MM_METRICS is {settings.metrics!r}: {error}")  # noqa: TRY400 - no bug
        choice = MetricsChoice()
    for warning in choice.warnings:
        log.warning("setting_ignored", detail=f"MM_METRICS: {warning}")
    info = None
    if settings.info_metrics:
        try:
            info = parse_info(settings.info_metrics, os.environ)
        except ValueError as error:
            raise SettingsError(f"MM_INFO_METRICS: {error}") from error
    return Metrics(choice, Meter(per_model=choice.per_model, models_max=choice.models_max), info)
