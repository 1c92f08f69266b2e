"""The one choice of the native core, against its readable reference."""

from hypothesis import given
from hypothesis import strategies as st

from modelmesh._core import _native as native
from modelmesh.policy.route import choose_copy

LOADS = st.lists(st.integers(0, 100_000), min_size=1, max_size=20)
DRAW = st.integers(0, 2**32 - 1)


@given(LOADS, DRAW, DRAW)
def test_core_and_reference_choose_the_same(loads, first, second) -> None:
    assert native.choose_copy(loads, (first, second)) == choose_copy(loads, (first, second))


@given(LOADS, DRAW, DRAW)
def test_it_is_never_the_busiest_of_several(loads, first, second) -> None:
    chosen = choose_copy(loads, (first, second))
    others = [load for index, load in enumerate(loads) if index != chosen]
    assert not others or loads[chosen] <= max(others)
