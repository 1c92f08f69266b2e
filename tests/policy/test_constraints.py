"""Where models of a type may go: rules as sentences."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.constraints import TypeConstraint, TypeConstraints
from modelmesh.policy.placement import LoadOn, NoPlacement, NoPlacementReason, choose_instance
from modelmesh.values.ids import InstanceId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import MemberRecord
from modelmesh.values.view import ClusterView, InstanceView

GPU = TypeConstraints({"big": TypeConstraint(required=("gpu",)), "small": TypeConstraint(preferred=("cheap",))})


def instance(name: str, *labels: str, used: int = 0, worth: int = 0) -> InstanceView:
    record = MemberRecord(
        address=name,
        capacity=Memory(1000),
        used=Memory(used),
        worth=worth,
        loading_slots=2,
        runtime_ready=True,
        labels=labels,
    )
    return InstanceView(InstanceId(name), record, reachable=True)


def choose(constraints: TypeConstraints, model_type: str, *instances: InstanceView, seed: int = 0) -> object:
    return choose_instance(
        ClusterView(InstanceId("a"), Revision(1), instances),
        size=Memory(100),
        exclude=frozenset(),
        rng=Random(seed),
        model_type=model_type,
        constraints=constraints,
    )


def chosen(constraints: TypeConstraints, model_type: str, *instances: InstanceView) -> set[str]:
    answers = [choose(constraints, model_type, *instances, seed=seed) for seed in range(30)]
    assert all(isinstance(answer, LoadOn) for answer in answers)
    return {str(answer.instance) for answer in answers if isinstance(answer, LoadOn)}


def test_a_type_goes_only_where_its_labels_are() -> None:
    assert chosen(GPU, "big", instance("a"), instance("b", "gpu"), instance("c", "gpu", "cheap")) <= {"b", "c"}


def test_all_required_labels_are_needed() -> None:
    both = TypeConstraints({"t": TypeConstraint(required=("x", "y"))})
    assert chosen(both, "t", instance("a", "x"), instance("b", "y"), instance("c", "y", "x")) == {"c"}
    assert both.missing("t", ("x",)) == ("y",)


def test_a_type_that_no_instance_satisfies_is_said_to_be() -> None:
    assert choose(GPU, "big", instance("a"), instance("b")) == NoPlacement(NoPlacementReason.NO_LABELS)


def test_a_type_without_an_entry_goes_anywhere_or_follows_the_default() -> None:
    assert chosen(GPU, "other", instance("a"), instance("b")) == {"a", "b"}
    with_default = TypeConstraints({"_default": TypeConstraint(required=("cpu",))})
    assert chosen(with_default, "other", instance("a"), instance("b", "cpu")) == {"b"}


def test_one_preferred_label_is_enough_and_none_is_no_obstacle() -> None:
    assert chosen(GPU, "small", instance("a"), instance("b", "cheap")) == {"b"}
    assert chosen(GPU, "small", instance("a"), instance("b")) == {"a", "b"}


def test_preferred_instances_without_room_lose_to_others_with_room() -> None:
    full = instance("b", "cheap", used=950)
    assert chosen(GPU, "small", instance("a"), full) == {"a"}


def test_among_full_instances_a_preferred_one_may_cost_a_little_more() -> None:
    cheap = instance("a", used=950, worth=0)
    assert chosen(GPU, "small", cheap, instance("b", "cheap", used=950, worth=1 << 30)) == {"b"}
    assert chosen(GPU, "small", cheap, instance("b", "cheap", used=950, worth=20 << 30)) == {"a"}


def test_what_may_go_anywhere_leaves_sought_after_instances_alone() -> None:
    """`b` has the label that another type needs; a type without needs goes to `a`, of less use to others."""
    assert chosen(GPU, "plain", instance("a"), instance("b", "gpu")) == {"a"}


@given(
    labels=st.lists(st.sets(st.sampled_from(["x", "y", "z"])), min_size=1, max_size=6),
    required=st.sets(st.sampled_from(["x", "y", "z"])),
    preferred=st.sets(st.sampled_from(["x", "y", "z"])),
    seed=st.integers(0, 1000),
)
def test_nothing_is_ever_placed_where_a_label_is_missing(labels, required, preferred, seed) -> None:
    constraints = TypeConstraints({"t": TypeConstraint(tuple(sorted(required)), tuple(sorted(preferred)))})
    instances = [instance(chr(97 + number), *sorted(own)) for number, own in enumerate(labels)]
    answer = choose(constraints, "t", *instances, seed=seed)
    if isinstance(answer, LoadOn):
        assert required <= labels[ord(answer.instance) - 97]
    else:
        assert not any(required <= own for own in labels)
