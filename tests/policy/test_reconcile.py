"""Whether what the store says of this instance's copies is what it holds."""

from modelmesh.policy.reconcile import Reconciliation, reconcile
from modelmesh.values.ids import LoadId, ModelId


def copies(**loads: int) -> dict[ModelId, LoadId]:
    return {ModelId(model): LoadId(load) for model, load in loads.items()}


def test_nothing_is_done_where_both_say_the_same() -> None:
    assert reconcile(copies(a=1, b=2), copies(a=1, b=2), {}) == Reconciliation((), ())


def test_a_key_without_its_copy_goes_and_a_copy_without_its_key_is_listed() -> None:
    found = reconcile(copies(gone=1, other=2), copies(other=3, new=4), {})
    assert (found.orphans, found.missing) == (("gone", "other"), ("new",))


def test_what_comes_or_goes_just_now_is_left_alone() -> None:
    assert reconcile(copies(a=1), {}, copies(a=1)) == Reconciliation((), ())
