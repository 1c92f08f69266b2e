"""One instance, as `modelmesh serve` runs it, whose Python can be disturbed from outside.

SIGUSR1 starts and stops a thread that holds the GIL without using the CPU; SIGUSR2 one that burns Python. What is
going on stands in the file BENCH_STATE_FILE: `idle`, `gil` or `burn`. With the arguments `burn SHARE` it is no instance
and only burns that share of a CPU: the control, which takes the same from the same machine.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

HOLD_US = 1_000_000
PERIOD_S = 0.005
"""Of the bursts of a busy control loop."""
BUSY_SHARE = 0.3


def hold_the_gil(ending: threading.Event) -> None:
    """Sleep in C without giving up the GIL, a second at a time: no other Python thread runs meanwhile."""
    usleep = ctypes.PyDLL(None).usleep
    while not ending.is_set():
        usleep(HOLD_US)


def burn(ending: threading.Event, share: float = BUSY_SHARE) -> None:
    """Compute in Python in bursts."""
    while not ending.is_set():
        until = time.perf_counter() + share * PERIOD_S
        while time.perf_counter() < until:
            sum(range(200))
        time.sleep((1 - share) * PERIOD_S)


class Disturbance:
    """At most one kind at a time."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._running: tuple[threading.Thread, threading.Event] | None = None
        state.write_text("idle")

    def toggle(self, number: int, _frame: object) -> None:
        """Start what the signal asks for, or stop what runs."""
        if self._running is not None:
            thread, ending = self._running
            ending.set()
            thread.join()
            self._running = None
            self._state.write_text("idle")
            return
        ending = threading.Event()
        work, name = (hold_the_gil, "gil") if number == signal.SIGUSR1 else (burn, "burn")
        # Before the start: with the GIL held nothing more is written.
        self._state.write_text(name)
        thread = threading.Thread(target=work, args=(ending,), name=f"bench-{name}", daemon=True)
        self._running = (thread, ending)
        thread.start()


def main() -> int:
    """Run the instance, or the control."""
    if sys.argv[1:2] == ["burn"]:
        burn(threading.Event(), float(sys.argv[2]))
    from modelmesh.instance.main import run  # noqa: PLC0415 - the control must not pay for it
    from modelmesh.instance.sources import load_settings  # noqa: PLC0415 - as above

    disturbance = Disturbance(Path(os.environ["BENCH_STATE_FILE"]))
    signal.signal(signal.SIGUSR1, disturbance.toggle)
    signal.signal(signal.SIGUSR2, disturbance.toggle)
    return run(load_settings())


if __name__ == "__main__":
    sys.exit(main())
