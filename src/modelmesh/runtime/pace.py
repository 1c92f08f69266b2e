"""Where the calls of a model run: on the event loop while they are quick, else in threads.

A thread costs a call 100 to 200 µs, most of which it waits for the interpreter. A call on the loop holds up all others, so only
those of quick models may run there. A model is on trial in threads until enough of its calls were quick. It goes back when its
calls become slow, and each return makes the next trial longer.
"""

QUICK_US = 400.0
"""A call that takes no longer does not hold up others noticeably: in a thread it would hold the interpreter about as long."""
SLOW_US = 2_000.0
"""A call that computes longer does."""
LONG_WAIT_US = 20_000.0
"""So does one that takes so long although it does not compute: it waits for something. Less may be another process's turn."""
LOOKED_AT = 32
"""Calls from which it is decided."""
ENOUGH_QUICK = 16
"""Half: in threads that wait for each other, quick calls look slow, too."""
MOST_SLOW = 4
LONGEST_TRIAL = 1 << 16
"""Calls."""


class Pace:
    """The calls of one model: how long they take, and where the next one runs."""

    __slots__ = ("_quick", "_seen", "_slow", "_trial", "never_on_loop", "on_loop")

    def __init__(self) -> None:
        self.on_loop = False
        """Whether the next call runs on the event loop."""
        self.never_on_loop = False
        """It cannot: a call of the model ends later than its method."""
        self._seen = self._quick = self._slow = 0
        self._trial = LOOKED_AT

    def note(self, took_us: float, computed_us: float, *, calls: int = 1) -> None:
        """A call took that long, and its thread computed that long of it.

        `calls`: how many there were since the last note, this one included. The others ran on the event loop and were not slow.
        """
        if self.on_loop and self._seen + calls > LOOKED_AT:
            self._decide(on_loop=True)
            calls = 1
        self._seen += calls
        self._quick += took_us <= QUICK_US
        self._slow += computed_us > SLOW_US or took_us > LONG_WAIT_US
        if self.on_loop:
            if self._slow >= MOST_SLOW:
                self._trial = min(4 * self._trial, LONGEST_TRIAL)
                self._decide(on_loop=False)
            elif self._seen >= LOOKED_AT:
                self._decide(on_loop=True)
        elif self._seen >= self._trial:
            enough = self._quick * LOOKED_AT >= self._seen * ENOUGH_QUICK and self._slow < MOST_SLOW
            self._decide(on_loop=enough and not self.never_on_loop)

    def _decide(self, *, on_loop: bool) -> None:
        self.on_loop = on_loop
        self._seen = self._quick = self._slow = 0
