"""What the process of a model prints: lines in the log of the runtime, with the name of the model and at a bounded rate."""

import asyncio
import contextlib
import logging
import os

_log = logging.getLogger("modelmesh.runtime")

CHUNK = 65_536
"""Bytes that are read at once."""
LONGEST_LINE = 4096
"""Bytes; a longer one is shown in parts."""
SHOWN_A_SECOND = 65_536
"""Bytes. More is read and dropped, so that a model that prints much is not held up by it."""
PAUSE_S = 0.01
"""Between two reads of a process that prints more than is shown. One that prints faster than that waits in its own print."""
NOTE_DELAY_S = 1.0
"""After this time at the latest a line says how much was not shown."""


class Lines:
    """Cuts output into lines that can be shown."""

    def __init__(self) -> None:
        self._begun = b""
        self._second = -1
        self._shown = 0
        self._dropped = 0

    @property
    def is_over(self) -> bool:
        """Whether more came in this second than is shown."""
        return self._shown > SHOWN_A_SECOND

    def add(self, output: bytes, now_s: float) -> list[str]:
        """The lines that are whole now."""
        found = []
        if int(now_s) != self._second:
            self._second, self._shown = int(now_s), 0
            found += self._told_of_dropped()
        self._shown += len(output)
        if self.is_over:
            self._dropped += len(output) + len(self._begun)
            self._begun = b""
            return found
        *whole, self._begun = (self._begun + output).split(b"\n")
        found += [text for line in whole for text in _parts(line)]
        if len(self._begun) > LONGEST_LINE:
            found += _parts(self._begun)
            self._begun = b""
        return found

    def rest(self) -> list[str]:
        """What there is to show at the end."""
        rest, self._begun = self._begun, b""
        return self._told_of_dropped() + _parts(rest)

    def _told_of_dropped(self) -> list[str]:
        dropped, self._dropped = self._dropped, 0
        return [f"({dropped} bytes were not shown)"] if dropped else []


def _parts(line: bytes) -> list[str]:
    """The text of a line, without what a terminal would obey."""
    found = [line[at : at + LONGEST_LINE] for at in range(0, len(line.rstrip(b"\r")), LONGEST_LINE)]
    return ["".join(map(_printable, part.rstrip(b"\r").decode(errors="backslashreplace"))) for part in found]


def _printable(character: str) -> str:
    return character if character.isprintable() or character == "\t" else ascii(character)[1:-1]


class Output:
    """Reads what a process prints. Everything happens on the event loop.

    Args:
        model: Its id.
        descriptor: The end of a pipe, which this object closes.
    """

    def __init__(self, model: str, descriptor: int) -> None:
        self._model = model
        self._descriptor = descriptor
        self._lines = Lines()
        self._pause: asyncio.TimerHandle | None = None
        self._note: asyncio.TimerHandle | None = None
        self._is_open = True
        os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._resume()

    def close(self) -> None:
        """Show what is there, and read no more."""
        if self._is_open:
            self._read()
        self._end()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._descriptor, self._on_readable)

    def _on_readable(self) -> None:
        self._read()
        if self._is_open and self._lines.is_over:
            self._loop.remove_reader(self._descriptor)
            self._pause = self._loop.call_later(PAUSE_S, self._resume)
            if self._note is None:
                self._note = self._loop.call_later(NOTE_DELAY_S, self._show_omitted)

    def _show_omitted(self) -> None:
        """Say how much was not shown."""
        self._note = None
        self._show(self._lines.add(b"", self._loop.time()))

    def _read(self) -> None:
        try:
            output = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return
        if not output:
            self._end()
            return
        self._show(self._lines.add(output, self._loop.time()))

    def _end(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._show(self._lines.rest())
        for timer in (self._pause, self._note):
            if timer is not None:
                timer.cancel()
        with contextlib.suppress(OSError):
            self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _show(self, lines: list[str]) -> None:
        for line in lines:
            _log.info("model %s: %s", self._model, line)
