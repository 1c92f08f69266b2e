"""Amounts of memory: what policies may ask of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.values.memory import GIB, NOTHING, Memory, largest, total

amounts = st.integers(0, 2**60).map(Memory)


@given(amounts, amounts)
def test_what_fits_leaves_nothing_beyond(size: Memory, room: Memory) -> None:
    assert size.fits(room) == (not size.beyond(room))
    assert size.at_most(room).fits(room)
    assert room.fits(room.at_least(size))
    assert size.at_most(room) + size.beyond(room) == size


@given(amounts, amounts.filter(bool))
def test_so_many_copies_fit_and_no_more(room: Memory, size: Memory) -> None:
    count = room.holds(size)
    assert (size * count).fits(room)
    assert not (size * (count + 1)).fits(room)


def test_a_negative_difference_is_no_room() -> None:
    missing = Memory(3) - Memory(5)
    assert not missing
    assert missing.holds(Memory(1)) == 0
    assert not Memory(1).fits(missing)
    assert NOTHING.beyond(missing) == Memory(2)


def test_parts_prices_and_sums() -> None:
    assert Memory(199).parts_of(Memory(1000), 100) == 19
    assert Memory(1).parts_of(NOTHING, 100) == 0
    assert Memory(GIB * 3 // 2).priced(1000) == 1500
    assert Memory(GIB * 2).per_gib(3.0) == 1.5
    assert NOTHING.per_gib(3.0) == 0.0
    assert total([Memory(1), Memory(2)]) == Memory(3)
    assert largest([Memory(1), Memory(2)]) == Memory(2)
    assert largest([]) == total([]) == NOTHING
    assert [str(Memory(size)) for size in (0, 3 << 29, -(3 << 20))] == ["0 B", "1.5 GiB", "-3.0 MiB"]


def test_amounts_have_no_order() -> None:
    with pytest.raises(TypeError):
        _ = Memory(1) < Memory(2)  # type: ignore[operator]
