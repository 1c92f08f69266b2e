"""The progress of a load, as a runtime reports it."""

import enum
from dataclasses import dataclass

from modelmesh.values import bounds
from modelmesh.values.sizes import format_size


class LoadStage(enum.Enum):
    """What a load does. Low cardinality: also the reason of an event."""

    LISTING = "listing"
    WAITING = "waiting"
    """Another load pulls the same files, or there is no free connection."""
    FETCHING = "fetching"
    UNPACKING = "unpacking"
    PUBLISHING = "publishing"
    LOADING = "loading"
    """The files are there; the model server works."""
    OTHER = "other"
    """A stage that this version does not know."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Bytes and files that were brought, and of how many. Totals of 0 are not known."""

    stage: LoadStage
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0

    @classmethod
    def decoded(
        cls, stage: str, *, bytes_done: int, bytes_total: int, files_done: int, files_total: int
    ) -> "LoadProgress":
        """The progress that a runtime reports, with every number in its range."""
        try:
            known = LoadStage(stage)
        except ValueError:
            known = LoadStage.OTHER
        return cls(
            known,
            bytes_done=bounds.BYTES.clamp(bytes_done),
            bytes_total=bounds.BYTES.clamp(bytes_total),
            files_done=files_done,
            files_total=files_total,
        )

    def __str__(self) -> str:
        """For people: `fetching, 11.9 MiB of 38.1 MiB, 3 of 7 files`."""
        parts = [self.stage.value]
        if self.bytes_total or self.bytes_done:
            total = f" of {format_size(self.bytes_total)}" if self.bytes_total else ""
            parts.append(f"{format_size(self.bytes_done)}{total}")
        if self.files_total > 1:
            parts.append(f"{self.files_done} of {self.files_total} files")
        return ", ".join(parts)
