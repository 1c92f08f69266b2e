"""How a process ended, for people."""

import contextlib
import signal


def how_it_ended(code: int) -> str:
    """What follows the name of a process.

    Args:
        code: Its exit status; below zero: the number of the signal that ended it.
    """
    if code >= 0:
        return f"ended with exit status {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
