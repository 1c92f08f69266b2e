"""When the process of a model that has ended is started again, and when one that runs is ended because it hangs."""

from collections.abc import Iterable, Sequence

COUNTED_S = 600.0
"""Ends that lie further back are forgotten."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


def starts_again_in_s(ends_s: Sequence[float], now_s: float) -> float:
    """Seconds until a process may be started again; 0.0: now.

    After the first end in ten minutes there is no pause. Each further one doubles the pause, up to a minute.

    Args:
        ends_s: When the model's processes ended, the latest last.
        now_s: On the same clock.
    """
    lately = sum(1 for end_s in ends_s if now_s - end_s < COUNTED_S)
    if lately < 2:
        return 0.0
    pause_s = min(FIRST_PAUSE_S * 2.0 ** (lately - 2), LONGEST_PAUSE_S)
    return max(0.0, ends_s[-1] + pause_s - now_s)


def hangs(given_up_s: Iterable[float], now_s: float, *, threads: int, hung_s: float) -> bool:
    """Whether a process answers nothing any more: calls that were given up long ago keep all of its threads.

    Args:
        given_up_s: When the calls were given up that still run.
        now_s: On the same clock.
        threads: Calls that the process answers at once.
        hung_s: How long a call may run on that was given up.
    """
    return sum(1 for since_s in given_up_s if now_s - since_s >= hung_s) >= threads
