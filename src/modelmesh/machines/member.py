"""This instance's life as a member of the cluster. Driven by `modelmesh.control.life.membership`."""

import enum

from modelmesh.machines.table import Machine


class MemberState(enum.Enum):
    """Joining: not in the store. Ready: leased. Adrift: the lease is lost or the store is away."""

    JOINING = "joining"
    READY = "ready"
    ADRIFT = "adrift"
    DRAINING = "draining"
    GONE = "gone"


class MemberInput(enum.Enum):
    """What may happen."""

    LISTED = "listed"
    LEASE_LOST = "lease_lost"
    DRAIN_BEGUN = "drain_begun"
    LEFT = "left"


class MemberEffect(enum.Enum):
    """What must be done."""

    PUBLISH = "publish"
    REVOKE = "revoke"


S, I, E = MemberState, MemberInput, MemberEffect  # noqa: E741 - the table reads by its letters

TRANSITIONS: dict[tuple[MemberState, MemberInput], tuple[MemberState, tuple[MemberEffect, ...]]] = {
    (S.JOINING, I.LISTED): (S.READY, ()),
    (S.JOINING, I.LEFT): (S.GONE, ()),
    (S.READY, I.LEASE_LOST): (S.ADRIFT, ()),
    (S.ADRIFT, I.LISTED): (S.READY, ()),
    (S.ADRIFT, I.LEASE_LOST): (S.ADRIFT, ()),
    (S.READY, I.DRAIN_BEGUN): (S.DRAINING, (E.PUBLISH,)),
    (S.ADRIFT, I.DRAIN_BEGUN): (S.DRAINING, (E.PUBLISH,)),
    # A draining member whose lease is lost lists itself again, still draining.
    (S.DRAINING, I.LEASE_LOST): (S.DRAINING, ()),
    (S.DRAINING, I.LISTED): (S.DRAINING, ()),
    (S.DRAINING, I.DRAIN_BEGUN): (S.DRAINING, ()),
    (S.READY, I.LEFT): (S.GONE, (E.REVOKE,)),
    (S.ADRIFT, I.LEFT): (S.GONE, (E.REVOKE,)),
    (S.DRAINING, I.LEFT): (S.GONE, (E.REVOKE,)),
}


class MemberMachine(Machine[MemberState, MemberInput, MemberEffect]):
    """The membership of this instance, from joining to its end."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(TRANSITIONS, MemberState.JOINING)
