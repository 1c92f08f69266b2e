"""Which model gets copies of calls."""

import pytest

from modelmesh.policy.labels import VModelRefused
from modelmesh.policy.retarget import reference_changes
from modelmesh.policy.shadow import reshadow
from modelmesh.policy.vmodel_counts import added_up
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.shadow import Shadow, ShadowCounts
from modelmesh.values.status import Status
from modelmesh.values.stored import RecordError
from modelmesh.values.vmodel_counts import VModelCounts

V = VModelId("v")
A, B, C = ModelId("a"), ModelId("b"), ModelId("c")
RECORD = VModelRecord(active=A, target=A, owner="o")


def test_a_shadow_is_a_model_that_the_vmodel_refers_to() -> None:
    after = reshadow(V, RECORD, Shadow(B, 5, compares=True))
    assert isinstance(after, VModelRecord)
    assert after.models == (A, B)
    assert reference_changes(RECORD, after) == {B: 1}
    assert VModelRecord.decode(after.encode()) == after
    assert reshadow(V, after, None) == RECORD


def test_a_shadow_stays_when_the_vmodel_moves_unless_it_moves_there() -> None:
    record = reshadow(V, RECORD, Shadow(B, 5))
    assert isinstance(record, VModelRecord)
    assert record.moved(C).shadow == Shadow(B, 5)
    assert record.moved(B).shadow is None


def test_what_no_shadow_can_be() -> None:
    for percent in (0, 101):
        message = f"{percent} percent of the calls of vmodel v shall be copied, 1 to 100 are possible"
        assert reshadow(V, RECORD, Shadow(B, percent)) == VModelRefused(Status.INVALID_ARGUMENT, message)
    message = "model a is the active model of vmodel v: it answers the calls"
    assert reshadow(V, RECORD, Shadow(A, 5)) == VModelRefused(Status.INVALID_ARGUMENT, message)


def test_whose_vmodel_it_is() -> None:
    assert reshadow(V, None, Shadow(B, 5)) == VModelRefused(Status.NOT_FOUND, "vmodel v not found")
    other = VModelRefused(Status.FAILED_PRECONDITION, 'vmodel v has another owner, "o"')
    assert reshadow(V, RECORD, Shadow(B, 5), owner="p") == other


@pytest.mark.parametrize("shadow", ["1", '{"model":"b","percent":0}', '{"percent":5}', '{"model":"b","percent":101}'])
def test_a_stored_shadow_that_is_none_is_an_error(shadow: str) -> None:
    with pytest.raises(RecordError, match="shadow"):
        VModelRecord.decode(b'{"amid":"a","shadow":' + shadow.encode() + b"}")


def test_an_older_instance_keeps_what_it_does_not_know() -> None:
    stored = b'{"amid":"a","tmid":"a","shadow":{"model":"b","percent":5},"later":{"x":[1]}}'
    record = VModelRecord.decode(stored)
    assert record.shadow == Shadow(B, 5)
    assert VModelRecord.decode(record.encode()).extras == {"later": {"x": [1]}}


def test_counts_are_added_up_by_model() -> None:
    here = VModelCounts((ShadowCounts(B, answered=1, equal=2, different=3, failed=4, cold=5, dropped=6, stream=7),))
    there = VModelCounts((ShadowCounts(A, equal=1), ShadowCounts(B, equal=1)))
    both = ShadowCounts(B, answered=1, equal=3, different=3, failed=4, cold=5, dropped=6, stream=7)
    assert added_up([here, there]) == VModelCounts((ShadowCounts(A, equal=1), both))
    assert added_up([]) == VModelCounts()
