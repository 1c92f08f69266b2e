"""Labels of a vmodel's versions, and how many earlier models are kept."""

import pytest

from modelmesh.policy.labels import MOST_KEPT, MOST_LABELS, VModelRefused, relabel
from modelmesh.policy.retarget import reference_changes
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.status import Status

V = VModelId("v")
A, B, C, D = (ModelId(name) for name in "abcd")


def record(**fields: object) -> VModelRecord:
    return VModelRecord(active=A, target=A, **fields)  # type: ignore[arg-type]


def changed(before: VModelRecord, labels: dict[str, ModelId | None], *, keep: int | None = None) -> VModelRecord:
    after = relabel(V, before, labels, keep=keep)
    assert isinstance(after, VModelRecord), after
    return after


def test_labels_are_set_moved_and_removed_one_by_one() -> None:
    one = changed(record(), {"test": B, "prod": A})
    assert one.labels == (("prod", A), ("test", B))
    two = changed(one, {"test": C})
    assert two.labels == (("prod", A), ("test", C))
    assert changed(two, {"test": None, "unknown": None}).labels == (("prod", A),)


def test_a_labelled_model_is_one_that_the_vmodel_refers_to() -> None:
    one = changed(record(), {"test": B, "also": B})
    assert one.models == (A, B)
    assert reference_changes(record(), one) == {B: 1}
    assert reference_changes(one, changed(one, {"test": None})) == {}
    assert reference_changes(one, changed(one, {"test": None, "also": None})) == {B: -1}


def test_the_last_active_models_are_kept() -> None:
    one = changed(record(), {}, keep=2)
    for model in (B, C, D):
        one = one.moved(model)
    assert (one.active, one.kept) == (D, (C, B))
    back = one.moved(C)
    assert (back.active, back.kept) == (C, (D, B)), "a model is active or kept, not both"
    assert one.moved(D) == one
    assert changed(one, {}, keep=1).kept == (C,)
    assert changed(one, {}).kept == (C, B)
    assert record().moved(B).kept == ()
    assert reference_changes(one, changed(one, {}, keep=0)) == {C: -1, B: -1}


@pytest.mark.parametrize(
    ("labels", "keep", "message"),
    [
        ({"stable": B}, None, "the label stable is the mesh's"),
        ({"latest": None}, None, "the label latest is the mesh's"),
        ({"": B}, None, "is not a label"),
        ({"a/b": B}, None, "is not a label"),
        ({"-a": B}, None, "is not a label"),
        ({"é": B}, None, "is not a label"),
        ({"x" * 64: B}, None, "is not a label"),
        ({"a\n": B}, None, "is not a label"),
        ({f"l{number}": B for number in range(MOST_LABELS + 1)}, None, "would have 17 labels"),
        ({}, MOST_KEPT + 1, "17 earlier models shall be kept"),
    ],
)
def test_what_is_none_is_refused(labels: dict[str, ModelId | None], keep: int | None, message: str) -> None:
    refused = relabel(V, record(), labels, keep=keep)
    assert isinstance(refused, VModelRefused)
    assert refused.status is Status.INVALID_ARGUMENT
    assert message in refused.message


def test_whose_vmodel_it_is() -> None:
    assert relabel(V, None, {}) == VModelRefused(Status.NOT_FOUND, "vmodel v not found")
    other = VModelRefused(Status.FAILED_PRECONDITION, 'vmodel v has another owner, "o"')
    assert relabel(V, record(owner="o"), {}, owner="p") == other


def test_a_record_comes_back_as_it_was_written() -> None:
    one = changed(record(), {"test": B}, keep=3).moved(C)
    assert VModelRecord.decode(one.encode()) == one
