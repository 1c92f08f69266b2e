"""How many copies a model should have.

The holder of the oldest ready copy asks whether one more is wanted, the holder of the newest whether it
may go; both on the rate summed over all holders. Called by `modelmesh.control.duties.scale`.
Source: the INTENT of `spec/cluster-state.md` 6 and `spec/request-path.md` 10; what is quicker than there
(a window of seconds, saturation) and the bounds per model are ours.
"""

import enum
from dataclasses import dataclass

from modelmesh.values.memory import NOTHING, Memory

MINUTE_MS = 60_000


class CopiesReason(enum.Enum):
    """Why copies are added, dropped or left as they are."""

    BELOW_MINIMUM = "below_minimum"
    RATE = "rate"
    SATURATED = "saturated"
    REGULAR_USE = "regular_use"
    ABOVE_MAXIMUM = "above_maximum"
    DUPLICATED = "duplicated"
    LITTLE_USED = "little_used"
    LONG_UNUSED = "long_unused"
    ENOUGH = "enough"
    NO_ROOM = "no_room"
    GIVEN_UP = "given_up"
    CHANGING = "changing"
    NO_PLACE = "no_place"


@dataclass(frozen=True, slots=True)
class CopiesLimits:
    """Thresholds. Source: the old system's, named there in the same order.

    Attributes:
        rate: Requests per minute and copy from which one more is added.
        heavy_divisor: Above `rate` - `rate`/this a model counts as heavily used.
        regular_from_ms, regular_to_ms: A model used now and also so long ago is used regularly.
        spare_free_percent: A spare for regular use leaves so much of the room free and evicts nothing, unless
        regular_cache_age_ms: what it displaces is older than this.
        spare_again_ms: A spare that did not stay is not added again so soon: the shortest interval that counts as regular use.
        full_percent: Copies are dropped for lack of use only if less than this is free.
        settled_ms: Nor while the newest copy is younger than this, nor
        dropped_ms: so soon after another was dropped.
        pair_ms: The spare of a pair that is not heavily used is dropped after this at the latest.
    """

    rate: int = 2000
    heavy_divisor: int = 4
    regular_from_ms: int = 420_000
    regular_to_ms: int = 2_400_000
    spare_free_percent: int = 10
    regular_cache_age_ms: int = 72_000_000
    spare_again_ms: int = 420_000
    full_percent: int = 5
    settled_ms: int = 1_800_000
    dropped_ms: int = 80_000
    pair_ms: int = 36_000_000


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """One model's copies and use, summed over its holders.

    Attributes:
        ready, loading: Its copies.
        places: Further instances that could hold it.
        rate: Requests per minute, all holders together.
        threshold: Requests per minute that one copy should take; None: it has no bound.
        saturated: Requests have waited at a full copy for more than a look.
        regular: It is used now and was used some time ago as well.
        unused_ms: Since its last use.
        heavy_ago_ms: Since it was heavily used; None: never, as far as is known.
        newest_ms: Age of its newest copy.
        dropped_ago_ms: Since a copy was last dropped; None: never, as far as is known.
        duplicated: A copy elsewhere was loaded while this instance was cut off.
        minimum, maximum: What an operator wants; `maximum` None: no bound.
        size: Of one copy.
        fits: At one of `places` there is room for it, so that nothing must be evicted.
        displaced_ms: Age of the oldest copy at `places`; 0: nothing is held there.
        spared_ago_ms: Since a spare was last added for regular use, and no instance has left since; None: never,
            as far as is known. If there is one copy all the same, the spare was given up for something better.
    """

    ready: int
    loading: int
    places: int
    rate: int
    threshold: int | None
    saturated: bool = False
    regular: bool = False
    unused_ms: int = 0
    heavy_ago_ms: int | None = None
    newest_ms: int = 0
    dropped_ago_ms: int | None = None
    duplicated: bool = False
    minimum: int = 0
    maximum: int | None = None
    size: Memory = NOTHING
    fits: bool = False
    displaced_ms: int = 0
    spared_ago_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterRoom:
    """How full the instances are.

    Attributes:
        capacity, free: Of all together.
        leaving_age_ms: How long the copy that would be evicted next is unused, where that is longest.
        promised: What spares that are under way will take of it.
    """

    capacity: Memory
    free: Memory
    leaving_age_ms: int
    promised: Memory = NOTHING

    @property
    def free_percent(self) -> int:
        """Free room in percent; 0 where there is no capacity."""
        return self.free.parts_of(self.capacity, 100)


@dataclass(frozen=True, slots=True)
class AddCopies:
    """Load `count` more. `displaces`: others may leave for them; else they go only where there is room."""

    count: int
    reason: CopiesReason
    displaces: bool = True


@dataclass(frozen=True, slots=True)
class DropCopy:
    """Drop the newest."""

    reason: CopiesReason


@dataclass(frozen=True, slots=True)
class KeepCopies:
    """Leave them."""

    reason: CopiesReason


_DEFAULT_LIMITS = CopiesLimits()


def more_copies(load: ModelLoad, room: ClusterRoom, limits: CopiesLimits = _DEFAULT_LIMITS) -> AddCopies | KeepCopies:
    """Decide whether copies are added; asked for a model that has at least one ready copy."""
    if load.loading:
        return KeepCopies(CopiesReason.CHANGING)
    wanted, reason = _wanted(load, room, limits)
    if wanted <= load.ready:
        return KeepCopies(reason)
    if load.maximum is not None:
        wanted = min(wanted, load.maximum)
    count = min(wanted - load.ready, load.places)
    if count > 0:
        displaces = reason is not CopiesReason.REGULAR_USE or not _leaves_room(load, room, limits)
        return AddCopies(count, reason, displaces)
    return KeepCopies(CopiesReason.NO_PLACE if wanted > load.ready else CopiesReason.ENOUGH)


def fewer_copies(load: ModelLoad, room: ClusterRoom, limits: CopiesLimits = _DEFAULT_LIMITS) -> DropCopy | KeepCopies:
    """Decide whether the newest of several ready copies is dropped."""
    if load.ready < 2 or load.ready <= load.minimum:
        return KeepCopies(CopiesReason.ENOUGH)
    if load.maximum is not None and load.ready > max(1, load.maximum):
        return DropCopy(CopiesReason.ABOVE_MAXIMUM)
    if load.loading or load.saturated or not _light(load, limits):
        return KeepCopies(CopiesReason.ENOUGH)
    if load.duplicated:
        return DropCopy(CopiesReason.DUPLICATED)
    if load.dropped_ago_ms is not None and load.dropped_ago_ms < limits.dropped_ms:
        return KeepCopies(CopiesReason.CHANGING)
    if room.free_percent >= limits.full_percent:
        return KeepCopies(CopiesReason.ENOUGH)
    if load.ready == 2:
        return _pair(load, room, limits)
    heavy_bound_ms = min(5 * 60 * MINUTE_MS, max(10 * MINUTE_MS, (3 * room.leaving_age_ms + 10_400_000) // 100))
    heavy = load.heavy_ago_ms is not None and load.heavy_ago_ms < heavy_bound_ms
    if heavy or load.newest_ms < limits.settled_ms:
        return KeepCopies(CopiesReason.ENOUGH)
    return DropCopy(CopiesReason.LITTLE_USED)


def regular_use(
    earlier_ms: int | None, last_ms: int | None, now_ms: int, limits: CopiesLimits = _DEFAULT_LIMITS
) -> tuple[bool, int | None, int]:
    """Whether a use now makes a model regularly used, and the two times to remember for the next use.

    Args:
        earlier_ms: The first time that the previous use returned; None before the first use.
        last_ms: The second; likewise.
        now_ms: Time of this use; the same clock, which may have begun at any time.
        limits: The window.
    """
    lower, upper = now_ms - limits.regular_to_ms, now_ms - limits.regular_from_ms
    earlier_fits = earlier_ms is not None and lower <= earlier_ms <= upper
    last_fits = last_ms is not None and lower <= last_ms <= upper
    # One that is too young to count is kept until it does: of a model in constant use the last never gets old enough.
    if last_fits or earlier_ms is None or earlier_ms < lower:
        earlier_ms = last_ms
    return earlier_fits or last_fits, earlier_ms, now_ms


def _wanted(load: ModelLoad, room: ClusterRoom, limits: CopiesLimits) -> tuple[int, CopiesReason]:
    """The number of copies wanted and the strongest reason; or why no copy is added."""
    if load.threshold is not None and load.rate >= load.threshold * load.ready:
        return max(load.rate // load.threshold + 1, load.minimum), CopiesReason.RATE
    if load.saturated:
        return load.ready + 1, CopiesReason.SATURATED
    if load.ready < load.minimum:
        return load.minimum, CopiesReason.BELOW_MINIMUM
    if load.ready > 1 or not load.regular:
        return load.ready, CopiesReason.ENOUGH
    if load.spared_ago_ms is not None and load.spared_ago_ms < limits.spare_again_ms:
        return load.ready, CopiesReason.GIVEN_UP
    if load.displaced_ms > limits.regular_cache_age_ms or _leaves_room(load, room, limits):
        return 2, CopiesReason.REGULAR_USE
    return load.ready, CopiesReason.NO_ROOM


def _leaves_room(load: ModelLoad, room: ClusterRoom, limits: CopiesLimits) -> bool:
    """Whether a spare takes no room that others use.

    Those would be models in use, whose callers then wait for a load, or other spares, which would be added again
    in their turn, and so on.
    """
    left = room.free - room.promised - load.size
    return load.fits and (room.capacity * limits.spare_free_percent).fits(left * 100)


def _light(load: ModelLoad, limits: CopiesLimits) -> bool:
    """Whether one copy fewer would still be far below the rate at which one is added; prevents flapping."""
    threshold = load.threshold if load.threshold is not None else limits.rate
    return load.rate * 3 < threshold * 2 * (load.ready - 1)


def _pair(load: ModelLoad, room: ClusterRoom, limits: CopiesLimits) -> DropCopy | KeepCopies:
    bound_ms = room.leaving_age_ms // 10
    if load.heavy_ago_ms is None or load.heavy_ago_ms >= room.leaving_age_ms // 5:
        bound_ms = min(bound_ms, limits.pair_ms)
    return DropCopy(CopiesReason.LONG_UNUSED) if load.unused_ms > bound_ms else KeepCopies(CopiesReason.ENOUGH)
