"""What setVModel makes of a record, rule by rule: `spec/cluster-state.md` 10.3."""

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.retarget import (
    Retarget,
    Retargeted,
    RetargetReason,
    RetargetRefused,
    reference_changes,
    retarget,
)
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.status import Status

A, B, C = ModelId("a"), ModelId("b"), ModelId("c")
SETTLED = VModelRecord(active=A, target=A, owner="me")
MOVING = VModelRecord(active=A, target=B, owner="me", failed=True)


def ask(target: ModelId = B, **rest: object) -> Retarget:
    return Retarget(VModelId("v"), target, **rest)  # type: ignore[arg-type]


def decided(call: Retarget, existing: VModelRecord | None, *, may_switch: bool = False) -> tuple[str, VModelRecord]:
    outcome = retarget(call, existing, may_switch=may_switch, default_owner="default")
    assert isinstance(outcome, Retargeted), outcome
    return outcome.reason.value, outcome.record


def refused(call: Retarget, existing: VModelRecord | None) -> tuple[Status, str]:
    outcome = retarget(call, existing, may_switch=True)
    assert isinstance(outcome, RetargetRefused), outcome
    return outcome.status, outcome.message


def test_a_new_vmodel_has_its_target_active_at_once() -> None:
    assert decided(ask(), None) == ("created", VModelRecord(active=B, target=B, owner="default"))
    assert decided(ask(owner="me"), None)[1].owner == "me"


def test_update_only_creates_nothing() -> None:
    assert refused(ask(update_only=True), None) == (Status.NOT_FOUND, "vmodel v not found")


def test_an_expected_target_must_be_there() -> None:
    assert refused(ask(expected="a"), None) == (Status.FAILED_PRECONDITION, "vmodel v not found")
    message = "Existing target model a does not match expected c"
    assert refused(ask(expected="c"), SETTLED) == (Status.FAILED_PRECONDITION, message)
    assert decided(ask(expected="a"), SETTLED)[0] == "retargeted"
    assert decided(ask(expected="c", target=A), SETTLED)[0] == "unchanged"


def test_another_owner_is_refused() -> None:
    message = 'vmodel v already exists with different owner "me"'
    assert refused(ask(owner="you"), SETTLED) == (Status.ALREADY_EXISTS, message)


def test_a_new_target_begins_a_transition() -> None:
    assert decided(ask(), SETTLED) == ("retargeted", VModelRecord(active=A, target=B, owner="me"))


def test_a_target_as_ready_as_the_active_model_is_switched_to_at_once() -> None:
    assert decided(ask(), SETTLED, may_switch=True) == ("switched", VModelRecord(active=B, target=B, owner="me"))


def test_force_switches_at_once_also_in_the_middle_of_a_transition() -> None:
    assert decided(ask(force=True), SETTLED)[0] == "switched"
    assert decided(ask(force=True), MOVING) == ("switched", VModelRecord(active=B, target=B, owner="me"))


def test_the_same_call_again_changes_nothing() -> None:
    assert decided(ask(), MOVING) == ("unchanged", MOVING)
    assert decided(ask(A), SETTLED) == ("unchanged", SETTLED)


def test_setting_the_target_back_to_the_active_model_ends_the_transition() -> None:
    assert decided(ask(A), MOVING) == ("switched", VModelRecord(active=A, target=A, owner="me"))


def test_a_third_target_replaces_the_second_and_forgets_its_failure() -> None:
    assert decided(ask(C), MOVING) == ("retargeted", VModelRecord(active=A, target=C, owner="me"))


models = st.sampled_from([A, B, C])
records = st.none() | st.builds(VModelRecord, active=models, target=models)


@given(st.lists(records, max_size=12))
def test_references_are_exact_under_every_order_of_changes(history: list[VModelRecord | None]) -> None:
    counts = {A: 0, B: 0, C: 0}
    before: VModelRecord | None = None
    for after in history:
        for model, change in reference_changes(before, after).items():
            counts[model] += change
        before = after
    named = {before.active, before.target} if before is not None else set()
    assert counts == {model: int(model in named) for model in counts}


@given(records, models, st.booleans(), st.booleans())
def test_the_target_asked_for_is_always_the_target_afterwards(
    existing: VModelRecord | None, target: ModelId, force: bool, may_switch: bool
) -> None:
    outcome = retarget(ask(target, force=force), existing, may_switch=may_switch)
    assert isinstance(outcome, Retargeted)
    assert outcome.record.target == target
    assert outcome.reason is not RetargetReason.UNCHANGED or outcome.record == existing
