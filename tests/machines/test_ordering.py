"""Names in the order of their ranks."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.machines.ordering import SLACK, Ordering

NAMES = st.sampled_from("abcdefgh")
CHANGES = st.lists(st.tuples(NAMES, st.none() | st.integers(0, 5)), max_size=300)


@given(CHANGES, st.integers(0, 8))
def test_names_come_by_rank_whatever_changed_before(changes: list[tuple[str, int | None]], read: int) -> None:
    ordering: Ordering[float, str] = Ordering()
    ranks: dict[str, float] = {}
    for name, rank in changes:
        if rank is None:
            assert ordering.remove(name) == ranks.pop(name, None)
        else:
            ordering.put(name, rank)
            ranks[name] = rank
        expected = sorted(ranks, key=lambda name: (ranks[name], name))
        assert list(islice(ordering, read)) == expected[:read]
        assert ordering.first() == (expected[0] if expected else None)
        assert len(ordering) == len(ranks)
    for name in "abcdefgh":
        assert (name in ordering, ordering.rank(name)) == (name in ranks, ranks.get(name))


def test_what_is_outdated_takes_no_more_room_than_what_is_there() -> None:
    ordering: Ordering[float, str] = Ordering()
    for turn in range(1000):
        for number in range(10):
            ordering.put(f"m{number}", turn)
        assert len(ordering._heap) <= 2 * 10 + SLACK + 1


def test_readers_do_not_walk_through_what_is_outdated() -> None:
    compared = 0

    class Counted(tuple[int, int]):
        __slots__ = ()

        def __lt__(self, other: tuple[int, int]) -> bool:
            nonlocal compared
            compared += 1
            return tuple.__lt__(self, other)

    ordering: Ordering[tuple[int, int], str] = Ordering()
    for turn in range(2):
        for number in range(1000):
            ordering.put(f"m{number}", Counted((turn, number)))
    assert next(iter(ordering)) == "m0"
    compared = 0
    assert list(islice(ordering, 3)) == ["m0", "m1", "m2"]
    assert 0 < compared < 100
