"""Which model answers while the wanted one is not ready."""

from modelmesh.policy.fallback import refallback
from modelmesh.policy.labels import VModelRefused
from modelmesh.policy.retarget import reference_changes
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.status import Status

V = VModelId("v")
A, B = ModelId("a"), ModelId("b")
RECORD = VModelRecord(active=A, target=A, owner="o")


def test_a_fallback_is_a_model_that_the_vmodel_refers_to() -> None:
    after = refallback(V, RECORD, B)
    assert isinstance(after, VModelRecord)
    assert (after.fallback, after.models) == (B, (A, B))
    assert reference_changes(RECORD, after) == {B: 1}
    assert after.moved(B).fallback == B, "it stays when the vmodel moves"
    assert VModelRecord.decode(after.encode()) == after
    assert refallback(V, after, None) == RECORD


def test_whose_vmodel_it_is() -> None:
    assert refallback(V, None, B) == VModelRefused(Status.NOT_FOUND, "vmodel v not found")
    other = VModelRefused(Status.FAILED_PRECONDITION, 'vmodel v has another owner, "o"')
    assert refallback(V, RECORD, B, owner="p") == other
