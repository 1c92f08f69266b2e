"""What a payload processor is, and the one that writes lines of the log; `http_processor` is the other."""

from collections.abc import Sequence
from typing import Literal, Protocol

import structlog

from modelmesh.adapters.payloads.formats import payloads
from modelmesh.values.dataplane import Tapped

Format = Literal["modelmesh", "cloudevents"]


class ProcessorError(Exception):
    """A batch could not be processed; the message has the reason."""


class Processor(Protocol):
    """Takes batches of calls."""

    async def process(self, calls: Sequence[Tapped]) -> None:
        """Process a batch. Raises ProcessorError."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class LoggerProcessor:
    """Writes a line for each payload, without its data."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("modelmesh")

    async def process(self, calls: Sequence[Tapped]) -> None:
        """Log a batch."""
        for call in calls:
            for payload in payloads(call):
                self._log.info(
                    "payload",
                    id=call.id,
                    model=call.model or None,
                    vmodel=call.vmodel,
                    method=call.method,
                    kind=payload.kind,
                    status="request" if payload.status is None else payload.status.name,
                    bytes=len(payload.data),
                )

    async def close(self) -> None:
        """There is nothing to close."""
