"""Measured sizes on disk, so that a new adapter need not measure again.

One line of JSON for each size that was learned, the last one of a content counts. Lines are appended; a file that has grown is
written again when it is read. It is a memory of estimates: what cannot be read or written is as if it had not been measured.
"""

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from modelmesh.servers.sizes import REMEMBERED, Learned, Reason, Sizes

_log = logging.getLogger("modelmesh.servers")

MAX_BYTES = 16 * 1024 * 1024
"""Of the file that is read; ten thousand lines with long paths have a quarter of it."""

MAX_TEXT = 4096
_MOST = 2**50


class SizesFile:
    """The sizes of one kind of server. Adapters beside servers of that kind may share it.

    Args:
        path: In a folder that outlives the adapter.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failing = False

    def remembered(self, factor: float, default_bytes: int) -> Sizes:
        """The sizes that were kept; new ones are kept too.

        Args:
            factor: As in `Sizes`.
            default_bytes: Likewise.
        """
        found, lines = self._read()
        sizes = Sizes(factor, default_bytes)
        for one in found:
            sizes.recall(one)
        if lines > 2 * REMEMBERED or lines != len(found):
            self._rewrite(found)
        if found:
            _log.info("%d sizes are known from %s", len(found), self._path)
        sizes.on_learn = self.append
        return sizes

    def append(self, learned: Learned) -> None:
        """Keep one more."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(_line(learned))
        except OSError as error:
            if not self._failing:
                _log.warning("measured sizes are not kept in %s: %s", self._path, error.strerror)
            self._failing = True
        else:
            self._failing = False

    def _read(self) -> tuple[list[Learned], int]:
        """The last of each content, oldest first, and how many lines there were."""
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return [], 0
        except OSError as error:
            _log.warning("sizes in %s cannot be read: %s", self._path, error.strerror)
            return [], 0
        lines = content[:MAX_BYTES].splitlines()
        last: dict[tuple[str, str], Learned] = {}
        for line in lines:
            if (one := parse_line(line)) is not None:
                last.pop((one.model_format, one.content), None)
                last[one.model_format, one.content] = one
        return list(last.values())[-REMEMBERED:], len(lines)

    def _rewrite(self, learned: Iterable[Learned]) -> None:
        making = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            making.write_bytes(b"".join(map(_line, learned)))
            making.replace(self._path)
        except OSError as error:
            _log.warning("sizes in %s cannot be written again: %s", self._path, error.strerror)


def parse_line(line: bytes) -> Learned | None:
    """What a line says; None: it is cut off, or says what cannot be."""
    try:
        found = json.loads(line)
        texts = (found["model_format"], found["content"])
        numbers = (found["disk_bytes"], found["size_bytes"])
        reason = Reason(found["reason"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts):
        return None
    if not all(type(number) is int and 0 <= number < _MOST for number in numbers):
        return None
    return Learned(*texts, *numbers, reason) if numbers[1] and reason is not Reason.PREDICTED else None


def _line(learned: Learned) -> bytes:
    return json.dumps({**asdict(learned), "reason": learned.reason.value}).encode() + b"\n"
