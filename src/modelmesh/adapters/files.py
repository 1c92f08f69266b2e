"""Files that are watched for changes: what Kubernetes mounts from a ConfigMap or a Secret."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

POLL_S = 1.0
"""A ConfigMap is swapped by symbolic links, and editors replace files: polling is safer than notifications."""

LARGEST_BYTES = 4 * 1024 * 1024
"""Four times what Kubernetes lets a ConfigMap hold."""


Parsed = TypeVar("Parsed")


class WatchedFile(Generic[Parsed]):
    """A text file whose changes are reported. What cannot be read or used is reported as well; the last good text stays.

    Args:
        path: The file, which must be readable at the start.
        parse: Decodes a text; raises ValueError for one that cannot be used. While others are served it runs in a thread.
        changed: Gets the value of each new text; raises ValueError if that cannot be used.
        refused: Called with the reason why a new text is not used.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[str], Parsed],
        changed: Callable[[Parsed], None],
        refused: Callable[[str], None],
    ) -> None:
        self.path = path
        self._parse = parse
        self._changed = changed
        self._refused = refused
        self._seen: bytes | None = None

    def read(self) -> None:
        """Take the file as it is now.

        Raises:
            OSError: It cannot be read.
            ValueError: It cannot be used.
        """
        for parsed in self._look():
            self._changed(parsed)

    def _look(self) -> Sequence[Parsed]:
        """The content of the file, if that is new."""
        with self.path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise ValueError(f"it is larger than {LARGEST_BYTES} bytes")
        if content == self._seen:
            return ()
        self._seen = content
        return (self._parse(content.decode()),)

    async def run(self) -> None:
        """Look for changes until cancelled."""
        said = ""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                for parsed in await asyncio.to_thread(self._look):
                    self._changed(parsed)
                said = ""
            except (OSError, ValueError) as error:
                why = f"{self.path}: {error}"
                if why != said:
                    said = why
                    self._refused(why)
