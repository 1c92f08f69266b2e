"""Log lines, JSON or for a console, by structlog."""

import contextlib
import io
import logging
import os
import sys
from typing import TextIO

import structlog

from modelmesh.values.events import Event

_LEVELS = {
    "store_away": logging.WARNING,
    "store_replaced": logging.ERROR,
    "lease_lost": logging.WARNING,
    "runtime_lost": logging.WARNING,
    "runtime_hung": logging.WARNING,
    "runtime_restarted": logging.WARNING,
    "runtime_rejected": logging.ERROR,
    "peer_lost": logging.WARNING,
    "certificates_refused": logging.ERROR,
    "store_connection_refused": logging.ERROR,
    "load_failed": logging.WARNING,
    "effect_failed": logging.ERROR,
    "duty_failed": logging.ERROR,
    "loop_failed": logging.ERROR,
    "broken": logging.CRITICAL,
    "sink_failed": logging.ERROR,
    "unload_failed": logging.WARNING,
    "loads_fail": logging.ERROR,
    "document_refused": logging.WARNING,
    "config_refused": logging.WARNING,
    "unreadable_key": logging.WARNING,
    "gave_up": logging.WARNING,
    "sent": logging.DEBUG,
    "local": logging.DEBUG,
    "victim": logging.DEBUG,
    "attempt_failed": logging.DEBUG,
    "load_started": logging.DEBUG,
    "load_progress": logging.DEBUG,
    "registered": logging.DEBUG,
    "unregistered": logging.DEBUG,
}
"""Everything else is INFO."""


COMPONENTS: dict[str, frozenset[str]] = {
    "calls": frozenset(),
    "requests": frozenset({"sent", "local", "attempt_failed", "gave_up"}),
    "copies": frozenset(
        [
            "load_started",
            "load_progress",
            "loaded",
            "load_failed",
            "load_again",
            "load_not_begun",
            "not_measured",
            "victim",
            "evicted",
            "dropped",
            "unloaded",
            "unload_failed",
            "ended",
            "effect_failed",
            "adds_copies",
            "drops_copy",
            "moved",
            "sent_on",
            "queued",
            "misplaced",
            "preloads",
            "vanished",
            "lost_while_loading",
            "lost_in_use",
        ]
    ),
    "models": frozenset(
        [
            "registered",
            "unregistered",
            "copies_set",
            "static_skipped",
            "vmodel_written",
            "split_set",
            "labels_set",
            "fallback_set",
            "fell_back",
            "shadow_set",
            "shadow_cold",
            "rollout_set",
            "rollout_step",
            "rollout_promoted",
            "rollout_rolled_back",
            "split_without",
            "vmodel_moved",
            "vmodel_stuck",
            "vmodel_unreadable",
        ]
    ),
    "store": frozenset(
        [
            "store_away",
            "store_back",
            "store_compacted",
            "store_replaced",
            "record_put_back",
            "lease_lost",
            "orphan_key",
            "missing_key",
            "unreadable_key",
            "config_changed",
            "config_refused",
            "constraints_changed",
            "document_refused",
        ]
    ),
    "instance": frozenset(),
}
"""The kinds of events of each component, as the page of events groups them. Those of no other are of `instance`. Lines about
single calls are `calls`."""

_COMPONENT_OF = {kind: component for component, kinds in COMPONENTS.items() for kind in kinds}
_NUMBERS = logging.getLevelNamesMapping()
_OLD_NAMES = {"TRACE": "DEBUG", "ALL": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL"}


class LogLevel:
    """The least level that is logged, of each component; it may change while the process runs.

    It is written as `info`, or with other levels for some components: `info,requests=debug,store=off`. Raises ValueError
    for words that are no level and no component.
    """

    def __init__(self, usual: str) -> None:
        self._usual = parse_levels(usual)
        self._least = self._usual

    def takes(self, number: int, component: str = "") -> bool:
        """Whether a line of this level is logged; asked where making the line costs more than asking."""
        return number >= self._least.get(component, self._least[""])

    def set(self, text: str | None) -> None:
        """Take other levels; None: the usual ones. Raises ValueError."""
        self._least = self._usual if text is None else parse_levels(text)

    def __call__(self, _: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Drop what is below."""
        if not self.takes(_NUMBERS[method.upper()], event.get("component", "")):
            raise structlog.DropEvent
        return event


def parse_levels(text: str) -> dict[str, int]:
    """The least level by component; that of "" is for all others. Levels have the names of Python or of Java.

    Raises:
        ValueError: A word is no level or no component; the message lists the known ones.
    """
    levels = {"": logging.INFO}
    for part in text.split(","):
        component, equals, name = part.strip().rpartition("=")
        if equals and component not in COMPONENTS:
            raise ValueError(f"{component!r} is no component; there are {', '.join(COMPONENTS)}")
        upper = name.upper()
        number = logging.CRITICAL + 1 if upper == "OFF" else _NUMBERS.get(_OLD_NAMES.get(upper, upper))
        if number is None:
            raise ValueError(f"{name!r} is no level; there are debug, info, warning, error and off")
        levels[component] = number
    return levels


class _Unfailing(io.TextIOWrapper):
    """A stream whose disk may be full, or whose reader may have ended: what cannot be written is lost, without an error.

    Lines go to the descriptor at once: a buffer would keep what cannot be written, and grow.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(io.BytesIO())
        self._stream = stream
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, ValueError):
            self._descriptor = None  # another stream has taken its place

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            if self._descriptor is None:
                self._stream.write(text)
            else:
                left = text.encode(errors="backslashreplace")
                while left:
                    left = left[os.write(self._descriptor, left) :]
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure_logs(*, form: str, level: str) -> LogLevel:
    """Set up logging for the process; lines go to standard error, one event a line."""
    least = LogLevel(level)
    shared: list[structlog.typing.Processor] = [
        least,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    if form == "console":
        shared.remove(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.PrintLoggerFactory(_Unfailing(sys.stderr)),
        cache_logger_on_first_use=True,
    )
    return least


class JournalLog:
    """Writes journal events as log lines."""

    def __init__(self, instance: str, level: LogLevel) -> None:
        self._log = structlog.get_logger("modelmesh").bind(instance=instance)
        self._level = level

    def __call__(self, event: Event) -> None:
        """One event."""
        number = _LEVELS.get(event.kind, logging.INFO)
        component = _COMPONENT_OF.get(event.kind, "instance")
        if not self._level.takes(number, component):
            return
        fields = {"model": event.model, "reason": event.reason, "detail": event.detail}
        self._log.log(
            number,
            event.kind,
            component=component,
            **{name: value for name, value in fields.items() if value},
        )

    def crashed(self, task: str, error: BaseException) -> None:
        """A background task ended by a bug."""
        self._log.error("internal_error", task=task, exc_info=error)
