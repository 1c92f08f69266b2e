"""How long to wait for a load: while it makes progress, up to a maximum."""

from modelmesh.values.load_progress import LoadProgress

MOST_TIMEOUTS = 60
"""A load ends after so many time-outs of the runtime, whatever progress it reports: an hour if the time-out is a minute."""


def moved_on(before: LoadProgress | None, now: LoadProgress) -> bool:
    """Whether a load has come further since it was last looked at.

    A new stage, more bytes or more files are progress. The same again is none, nor is less of something: a pull that starts
    again has to get further than the one before.
    """
    if before is None:
        return True
    if now.stage is not before.stage:
        return True
    return now.bytes_done > before.bytes_done or now.files_done > before.files_done


def furthest(before: LoadProgress | None, now: LoadProgress) -> LoadProgress:
    """What the next report is compared with: within a stage the furthest that was reported."""
    if before is None or now.stage is not before.stage:
        return now
    return now if moved_on(before, now) else before


def ends_ms(*, began_ms: int, moved_ms: int | None, timeout_ms: int) -> int:
    """When a load is given up, on the clock of the arguments.

    Args:
        began_ms: When it began.
        moved_ms: When it last made progress; None: it reported nothing.
        timeout_ms: The runtime's time-out of a load.
    """
    since_ms = began_ms if moved_ms is None else max(began_ms, moved_ms)
    return min(since_ms + timeout_ms, began_ms + MOST_TIMEOUTS * timeout_ms)
