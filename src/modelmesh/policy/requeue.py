"""Whether a load that waits here for a slot should begin elsewhere instead.

Asked by `modelmesh.control.duties.requeue`. Loads are placed where they should begin soonest; some then take longer than others, and an
instance is idle while loads wait at another.
"""

LEAST_GAIN_MS = 500
"""Moving costs a refusal, another claim and a hop."""

GAIN_DIVISOR = 4


def begins_elsewhere(*, here_ms: int, there_ms: int, load_ms: int) -> bool:
    """Decide on one load.

    Args:
        here_ms: Until it would have a slot here.
        there_ms: The same at the other instance.
        load_ms: How long it will take.
    """
    return here_ms - there_ms >= max(LEAST_GAIN_MS, load_ms // GAIN_DIVISOR)
