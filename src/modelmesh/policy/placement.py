"""Choose the instance that should load a new copy of a model.

Three steps, each a function of its own: `eligible` (hard constraints), `shortlist` (as good as the
best, within a tolerance), `pick` (spread). Called by `modelmesh.policy.attempt` on a miss.
Source: the INTENT of the old load router, `spec/request-path.md` 5.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from modelmesh.policy.constraints import TypeConstraints
from modelmesh.policy.waiting import common_load_ms, wait_ms
from modelmesh.values.ids import InstanceId
from modelmesh.values.memory import Memory
from modelmesh.values.view import ClusterView, InstanceView


class PlacementReason(enum.Enum):
    """Why an instance was chosen."""

    HAS_ROOM = "has_room"
    EVICTS_CHEAPEST = "evicts_cheapest"
    ONLY_CHOICE = "only_choice"


class NoPlacementReason(enum.Enum):
    """Why none was."""

    NO_INSTANCES = "no_instances"
    ALL_EXCLUDED = "all_excluded"
    TOO_LARGE = "too_large"
    NO_LABELS = "no_labels"


@dataclass(frozen=True, slots=True)
class PlacementLimits:
    """Tolerances for "as good as the best".

    `near_divisor`: an instance competes while a load costs there at most this part of a load's time more than at the
    cheapest. Among those with room it must also have a quarter of the best's room and at most a quarter more copies (from
    ten copies on), as in the old system.

    `sampled`: of a cluster more than twice as large, so many instances are drawn and looked at, and all of them
    only if none of these can load the model. The best of 64 is among the best 5 % of all with a probability of
    96 %, and those who decide at the same time draw different ones.
    """

    near_divisor: int = 4
    room_divisor: int = 4
    crowded_copies: int = 10
    crowded_divisor: int = 4
    sampled: int = 64


@dataclass(frozen=True, slots=True)
class LoadOn:
    """Load the copy on `instance`; `considered` is the shortlist it was drawn from."""

    instance: InstanceId
    reason: PlacementReason
    considered: tuple[InstanceId, ...]


@dataclass(frozen=True, slots=True)
class NoPlacement:
    """No instance can load it."""

    reason: NoPlacementReason


_DEFAULT_LIMITS = PlacementLimits()
_UNCONSTRAINED = TypeConstraints()


def choose_instance(
    view: ClusterView,
    *,
    size: Memory,
    exclude: frozenset[InstanceId],
    rng: Random,
    prefer_own: bool = False,
    holders: Sequence[InstanceView] = (),
    model_type: str = "",
    constraints: TypeConstraints = _UNCONSTRAINED,
    limits: PlacementLimits = _DEFAULT_LIMITS,
) -> LoadOn | NoPlacement:
    """Choose where to load a copy.

    Pure and total: same arguments and state of `rng`, same answer. Instances that are being replaced are left
    alone while there are others, and copies of one model are placed in different zones, or at least on different
    hosts, where that costs nothing.

    Args:
        view: The cluster; the order of instances does not matter.
        size: Predicted size, above 0.
        exclude: Instances that hold, load, or have failed the model.
        rng: The only randomness.
        prefer_own: Take the own instance if it is on the shortlist (callers that spread their calls).
        holders: Instances that have a copy already.
        model_type: The model's type.
        constraints: Where models of which type may go.
        limits: Tolerances.
    """
    assert size, size
    if not view.instances:
        return NoPlacement(NoPlacementReason.NO_INSTANCES)
    own = view.own if prefer_own else None
    common_ms = common_load_ms(view)

    def among(instances: Sequence[InstanceView]) -> LoadOn | NoPlacement:
        return _choose_among(
            instances,
            loads=view.loads_at,
            common_ms=common_ms,
            size=size,
            exclude=exclude,
            rng=rng,
            own=own,
            holders=holders,
            model_type=model_type,
            constraints=constraints,
            limits=limits,
        )

    if len(view.instances) > 2 * limits.sampled:
        drawn = rng.sample(view.instances, limits.sampled)
        mine = view.instance(view.own) if prefer_own else None
        chosen = among(drawn if mine is None or mine in drawn else [*drawn, mine])
        if isinstance(chosen, LoadOn):
            return chosen
    return among(view.instances)


def _choose_among(
    instances: Sequence[InstanceView],
    *,
    loads: Callable[[InstanceView], int],
    common_ms: int,
    size: Memory,
    exclude: frozenset[InstanceId],
    rng: Random,
    own: InstanceId | None,
    holders: Sequence[InstanceView],
    model_type: str,
    constraints: TypeConstraints,
    limits: PlacementLimits,
) -> LoadOn | NoPlacement:
    allowed = constraints.allowed(model_type, instances)
    if not allowed:
        return NoPlacement(NoPlacementReason.NO_LABELS)
    candidates = eligible(allowed, exclude)
    if not candidates:
        return NoPlacement(NoPlacementReason.ALL_EXCLUDED)
    fitting = [entry for entry in candidates if size.fits(entry.record.capacity)]
    if not fitting:
        return NoPlacement(NoPlacementReason.TOO_LARGE)
    # The size may be an estimate: if everything is pinned, the instance itself refuses after its runtime has predicted the size.
    fitting = [entry for entry in fitting if size.fits(entry.evictable)] or fitting
    fitting = [entry for entry in fitting if not entry.outdated] or fitting
    preferred = {entry.instance for entry in constraints.preferred(model_type, fitting)}
    costs = {entry.instance: cost_ms(entry, loads(entry), size, common_ms=common_ms) for entry in fitting}
    short = shortlist(fitting, costs, near_ms=common_ms // limits.near_divisor)
    roomy = [entry for entry in short if size.fits(entry.free)]
    short = roomy or short
    short = apart([entry for entry in short if entry.instance in preferred] or short, holders)
    if roomy:
        short = shortlist_by_room(short, limits)
    if len(candidates) == 1:
        reason = PlacementReason.ONLY_CHOICE
    else:
        reason = PlacementReason.HAS_ROOM if roomy else PlacementReason.EVICTS_CHEAPEST
    chosen = pick(short, rng, costs, own=own)
    return LoadOn(chosen.instance, reason, tuple(entry.instance for entry in short))


def eligible(instances: Sequence[InstanceView], exclude: frozenset[InstanceId]) -> list[InstanceView]:
    """Instances that may load at all, ordered by id so that the order of the view cannot matter."""
    allowed = [entry for entry in instances if entry.available and entry.instance not in exclude]
    return sorted(allowed, key=lambda entry: entry.instance)


def cost_ms(entry: InstanceView, loads: int, size: Memory, *, common_ms: int) -> int:
    """What a load costs callers there: its wait for a slot, and what those will wait whose models leave for it.

    The latter counts half. It is an estimate from few uses: taken as it is, many loads go where it is lowest by chance.

    Args:
        entry: The instance.
        loads: At work and waiting there.
        size: What the load needs.
        common_ms: How long a load takes at an instance that has not published it.
    """
    slot_ms = wait_ms(entry, loads, common_ms=common_ms)
    if size.fits(entry.free):
        return slot_ms
    return slot_ms + size.beyond(entry.free).priced(entry.record.worth) // 2


def shortlist(entries: Sequence[InstanceView], costs: Mapping[InstanceId, int], *, near_ms: int) -> list[InstanceView]:
    """Those where the load costs at most `near_ms` more than at the cheapest, cheapest first."""
    ordered = sorted(entries, key=lambda entry: (costs[entry.instance], entry.instance))
    most_ms = costs[ordered[0].instance] + near_ms
    return [entry for entry in ordered if costs[entry.instance] <= most_ms]


def shortlist_by_room(roomy: Sequence[InstanceView], limits: PlacementLimits) -> list[InstanceView]:
    """Those with about as few copies and as much room as the best, best first."""
    ordered = sorted(roomy, key=lambda entry: (entry.record.copies, -entry.free.bytes, entry.instance))
    best = ordered[0]
    crowded = max(limits.crowded_copies, best.record.copies + best.record.copies // limits.crowded_divisor)
    return [
        entry
        for entry in ordered
        if best.free.fits(entry.free * limits.room_divisor) and entry.record.copies <= crowded
    ]


def apart(entries: Sequence[InstanceView], holders: Sequence[InstanceView]) -> list[InstanceView]:
    """Those in other zones than all holders; if there is none, those on other hosts; else all."""
    zones = {holder.record.zone for holder in holders if holder.record.zone}
    hosts = {holder.record.location for holder in holders if holder.record.location}
    if zones and (elsewhere := [entry for entry in entries if entry.record.zone not in zones]):
        return elsewhere
    return [entry for entry in entries if entry.record.location not in hosts] or list(entries)


def pick(
    short: Sequence[InstanceView], rng: Random, costs: Mapping[InstanceId, int], *, own: InstanceId | None
) -> InstanceView:
    """Draw one of the shortlist: the cheaper of two drawn, so that those who decide at one moment differ."""
    mine = next((entry for entry in short if entry.instance == own), None)
    if mine is not None:
        return mine
    if len(short) == 1:
        return short[0]
    first, second = rng.sample(range(len(short)), 2)
    return min(short[first], short[second], key=lambda entry: (costs[entry.instance], -entry.free.bytes))
