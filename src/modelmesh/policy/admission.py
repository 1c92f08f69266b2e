"""May a load begin here: now, after a wait, or not at all.

Called by `modelmesh.control.cache` before it claims a load.
"""

import enum
from dataclasses import dataclass


class AdmissionReason(enum.Enum):
    """Why a load is admitted or refused."""

    ADMITTED = "admitted"
    TOO_LARGE = "too_large"
    OLDER_THAN_ALL = "older_than_all"
    DRAINING = "draining"
    RUNTIME_AWAY = "runtime_away"


@dataclass(frozen=True, slots=True)
class LoadCondition:
    """The state of this instance that the decision needs. `oldest_use_ms` is 0 when nothing is held."""

    capacity_bytes: int
    reserve_bytes: int
    used_bytes: int
    oldest_use_ms: int
    draining: bool
    runtime_ready: bool


def admit(condition: LoadCondition, *, size_bytes: int, last_use_ms: int | None) -> AdmissionReason:
    """Decide on a load of `size_bytes`.

    Args:
        condition: This instance.
        size_bytes: Predicted size.
        last_use_ms: When the model was last used, for loads that no caller waits for; None for a
            load on behalf of a waiting call, which is newer than everything.
    """
    if condition.draining:
        return AdmissionReason.DRAINING
    if not condition.runtime_ready:
        return AdmissionReason.RUNTIME_AWAY
    if size_bytes > condition.capacity_bytes:
        return AdmissionReason.TOO_LARGE
    fits = condition.used_bytes + size_bytes + condition.reserve_bytes <= condition.capacity_bytes
    if last_use_ms is not None and not fits and 0 < last_use_ms < condition.oldest_use_ms:
        return AdmissionReason.OLDER_THAN_ALL
    return AdmissionReason.ADMITTED
