"""The progress of a pull."""

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Stage(enum.Enum):
    """What a pull does. Low cardinality: also a metric label."""

    LISTING = "listing"
    WAITING = "waiting"
    """Another load pulls the same files, or there is no free connection."""
    FETCHING = "fetching"
    UNPACKING = "unpacking"
    PUBLISHING = "publishing"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Progress:
    """One report. `bytes_total` is what is known so far; files of unknown size are added when their size is known."""

    stage: Stage
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0


Report = Callable[[Progress], None]
"""Takes reports, on the event loop, some ten a second at most. Must not block or raise."""


def silent(_progress: Progress) -> None:
    """Take no notice."""
