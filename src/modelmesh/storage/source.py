"""The interface that a pull needs from a source of files."""

from collections.abc import AsyncGenerator
from typing import Protocol

from modelmesh.storage.listing import Limits, Plan, SourceFile


class Source(Protocol):
    """One location, opened. Made for one pull; methods raise `StorageError` only.

    Attributes:
        ranged: `read` can begin anywhere, so that a read that broke is resumed and a large file is read in parts.
    """

    ranged: bool

    async def plan(self, limits: Limits, unknown: str) -> Plan:
        """List what is there; `unknown` is in place of tags that the source does not have.

        Raises:
            StorageError: NOT_FOUND: nothing is there; and all other codes.
        """
        ...

    def read(self, file: SourceFile, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """Bytes `start` to `end` (not included; None: to the end), in pieces of at most a few MiB.

        Raises:
            StorageError: ABORTED: the file is no longer the one that was listed. UNAVAILABLE: try again.
        """
        ...

    async def close(self) -> None:
        """Let connections go."""
        ...
