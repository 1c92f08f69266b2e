"""Whether a copy moves to an instance that has far fewer."""

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.balance import BalanceReason, MoveOne, StayPut, next_move
from modelmesh.values.ids import InstanceId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import MemberRecord
from modelmesh.values.view import ClusterView, InstanceView

UNIT = 100


def place(name: str, copies: int, *, room: int = 10, zone: str = "", draining: bool = False) -> InstanceView:
    record = MemberRecord(
        "", capacity=Memory(room * UNIT), used=Memory(copies * UNIT), copies=copies, zone=zone, draining=draining
    )
    return InstanceView(InstanceId(name), record)


def view(*places: InstanceView) -> ClusterView:
    return ClusterView(places[0].instance, Revision(1), places)


def test_a_full_instance_gives_to_one_that_joined_empty() -> None:
    assert next_move(view(place("a", 10), place("b", 0))) == MoveOne(InstanceId("b"))


def test_it_stops_when_the_other_has_about_half_as_many() -> None:
    assert next_move(view(place("a", 10), place("b", 4))) == StayPut(BalanceReason.NOBODY_EMPTIER)


def test_an_instance_with_room_of_its_own_keeps_what_it_has() -> None:
    assert next_move(view(place("a", 7), place("b", 0))) == StayPut(BalanceReason.NOT_CROWDED)


def test_nothing_moves_to_an_instance_that_leaves() -> None:
    assert next_move(view(place("a", 10), place("b", 0, draining=True))) == StayPut(BalanceReason.NOBODY_EMPTIER)


def test_another_zone_is_preferred() -> None:
    chosen = next_move(view(place("a", 10, zone="x"), place("b", 0, zone="x"), place("c", 1, zone="y")))
    assert chosen == MoveOne(InstanceId("c"))


@given(st.lists(st.integers(0, 20), min_size=2, max_size=6))
def test_moves_end_and_are_never_undone(counts: list[int]) -> None:
    """Whatever the distribution, giving one at a time settles, and no receiver becomes a giver to its giver."""
    given_away: set[tuple[int, int]] = set()
    for _ in range(200):
        moved = False
        for giver in range(len(counts)):
            order = [giver, *(other for other in range(len(counts)) if other != giver)]
            move = next_move(view(*(place(str(number), counts[number], room=20) for number in order)))
            if isinstance(move, MoveOne):
                receiver = int(move.target)
                assert (receiver, giver) not in given_away
                given_away.add((giver, receiver))
                counts[giver] -= 1
                counts[receiver] += 1
                moved = True
        if not moved:
            return
    raise AssertionError(f"moves do not end: {counts}")
