"""When a vmodel may move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.promotion import (
    AwaitTarget,
    FailTransition,
    LoadTarget,
    Promote,
    PromotionReason,
    promote,
)


def test_a_vmodel_whose_active_model_is_not_loaded_moves_at_once() -> None:
    step = promote(active_copies=0, target_ready=0, target_loading=0, places=3)
    assert step == Promote(PromotionReason.ACTIVE_UNUSED)


def test_it_moves_only_when_the_target_has_as_many_ready_copies() -> None:
    assert promote(active_copies=3, target_ready=3, target_loading=0, places=5) == Promote(PromotionReason.PARITY)
    step = promote(active_copies=3, target_ready=1, target_loading=0, places=5)
    assert step == LoadTarget(2, PromotionReason.COPIES_MISSING)


def test_copies_that_are_loading_are_waited_for_not_loaded_again() -> None:
    step = promote(active_copies=2, target_ready=0, target_loading=2, places=3)
    assert step == AwaitTarget(PromotionReason.COPIES_LOADING)


def test_no_more_copies_are_asked_than_there_are_places() -> None:
    assert promote(active_copies=4, target_ready=2, target_loading=0, places=2) == Promote(PromotionReason.PARITY)


def test_where_only_some_copies_fit_those_are_enough() -> None:
    step = promote(active_copies=3, target_ready=2, target_loading=0, places=3, refused=True)
    assert step == Promote(PromotionReason.AS_MANY_AS_FIT)


@pytest.mark.parametrize("places", [0, 3])
def test_a_target_that_loads_nowhere_fails_the_transition(places: int) -> None:
    step = promote(active_copies=1, target_ready=0, target_loading=0, places=places, refused=True)
    assert step == FailTransition(PromotionReason.LOAD_FAILED)


counts = st.integers(0, 6)


@given(counts, counts, counts, counts, st.booleans())
def test_a_vmodel_in_use_never_moves_to_a_model_without_a_ready_copy(
    active: int, ready: int, loading: int, places: int, refused: bool
) -> None:
    step = promote(active_copies=active, target_ready=ready, target_loading=loading, places=places, refused=refused)
    if isinstance(step, Promote) and active:
        assert ready >= 1
    if isinstance(step, LoadTarget):
        assert step.missing >= 1
        assert not refused
