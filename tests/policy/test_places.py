"""What each instance is to a model."""

from modelmesh.policy.constraints import TypeConstraint, TypeConstraints
from modelmesh.policy.places import PlaceReason, describe_places
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import CopyState, FailureKind, FailureRecord, MemberRecord
from modelmesh.values.view import ClusterView, Copy, Failure, InstanceView, ModelView

NOW = 1_000_000


def place(name: str, *, used: int = 0, reachable: bool = True, outdated: bool = False, **facts: object) -> InstanceView:
    record = MemberRecord("", capacity=Memory(1000), used=Memory(used), next_victim_use_ms=NOW - 9000, **facts)  # type: ignore[arg-type]
    return InstanceView(InstanceId(name), record, reachable, outdated)


def copy(name: str, state: CopyState) -> Copy:
    return Copy(InstanceId(name), state, NOW - 5000, LoadId(1), Memory(100), Revision(1), Revision(1), Revision(1))


def test_every_instance_has_the_first_reason_that_applies() -> None:
    failure = FailureRecord(FailureKind.BAD_MODEL, "corrupt", 2, NOW - 1000, NOW + 30_000, Revision(1))
    model = ModelView(
        ModelId("m"),
        (copy("a", CopyState.LOADED), copy("b", CopyState.LOADING)),
        (Failure(InstanceId("g"), failure),),
    )
    gpu = ("gpu",)
    cluster = ClusterView(
        InstanceId("a"),
        Revision(1),
        (
            place("a"),
            place("b", draining=True),
            place("c", reachable=False, draining=True),
            place("d", draining=True),
            place("e", runtime_ready=False),
            place("f"),
            place("g", labels=gpu),
            place("h", labels=gpu, outdated=True),
            place("i", labels=gpu),
            place("j", labels=gpu, used=950),
        ),
    )
    found = describe_places(
        model,
        cluster,
        size=Memory(100),
        model_type="t",
        constraints=TypeConstraints({"t": TypeConstraint(required=gpu)}),
        now_ms=NOW,
    )
    assert [entry.reason for entry in found] == [
        PlaceReason.HOLDS,
        PlaceReason.LOADS,
        PlaceReason.UNREACHABLE,
        PlaceReason.DRAINING,
        PlaceReason.NO_RUNTIME,
        PlaceReason.LACKS_LABELS,
        PlaceReason.FAILED,
        PlaceReason.REPLACED,
        PlaceReason.HAS_ROOM,
        PlaceReason.MUST_EVICT,
    ]
    assert found[5].detail == "type t requires [gpu]"
    assert found[6].detail == "not tried again for 30 s, failure 2: corrupt"
    assert "the copy that would leave next was used 9 s ago" in found[9].detail


def test_a_model_that_no_instance_can_hold() -> None:
    (found,) = describe_places(
        ModelView(ModelId("m")),
        ClusterView(InstanceId("a"), Revision(1), (place("a"),)),
        size=Memory(1001),
        model_type="t",
        constraints=TypeConstraints(),
        now_ms=NOW,
    )
    assert (found.reason, found.detail) == (PlaceReason.TOO_SMALL, "1001 B are needed, it has 1000 B in all")
