"""Which cold models fill room that nobody needs."""

from hypothesis import given
from hypothesis import strategies as st

from modelmesh.policy.preload import ColdModel, plan_preloads, preload_begins
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import MemberRecord
from modelmesh.values.view import ClusterView, InstanceView

UNIT = 100
COLD = [ColdModel(ModelId(f"m{number:02}"), last_use_ms=1000 + number) for number in range(20)]


def view(*used: int, capacity: int = 16) -> ClusterView:
    places = tuple(
        InstanceView(
            InstanceId(str(number)),
            MemberRecord(
                "", capacity=Memory(capacity * UNIT), used=Memory(units * UNIT), copies=units, loading_slots=1
            ),
        )
        for number, units in enumerate(used)
    )
    return ClusterView(InstanceId("0"), Revision(1), places)


def names(models: list[ColdModel]) -> list[str]:
    return [chosen.model for chosen in models]


def test_the_most_recently_used_fill_half_of_the_spare_room() -> None:
    assert names(plan_preloads(COLD, view(0), default_size=Memory(UNIT))) == [f"m{n:02}" for n in range(19, 12, -1)]


def test_models_used_at_the_same_time_are_all_considered() -> None:
    alike = [ColdModel(model.model, last_use_ms=5) for model in COLD]
    assert len(plan_preloads(alike, view(0), default_size=Memory(UNIT))) == 7


def test_a_full_cluster_loads_nothing_ahead() -> None:
    assert plan_preloads(COLD, view(16, 14), default_size=Memory(UNIT)) == []


@given(st.lists(st.integers(0, 16), min_size=1, max_size=5))
def test_what_is_loaded_ahead_always_fits(used: list[int]) -> None:
    cluster = view(*used)
    free = sum(place.free.bytes for place in cluster.instances)
    assert len(plan_preloads(COLD, cluster, default_size=Memory(UNIT))) * UNIT <= free


def slots_view(*instances: tuple[int, int]) -> ClusterView:
    """Instances with so many slots, of which so many are taken."""
    places = tuple(
        InstanceView(InstanceId(str(number)), MemberRecord("", loading_slots=slots, loads=loads))
        for number, (slots, loads) in enumerate(instances)
    )
    return ClusterView(InstanceId("0"), Revision(1), places)


def test_preloads_leave_a_quarter_of_the_slots_to_callers() -> None:
    assert preload_begins(slots_view((1, 1), (1, 1), (1, 0), (1, 0)))
    assert not preload_begins(slots_view((1, 1), (1, 1), (1, 1), (1, 0)))
    assert not preload_begins(slots_view((2, 1)))


def test_where_there_is_one_slot_a_preload_may_have_it() -> None:
    assert preload_begins(slots_view((1, 0)))
    assert not preload_begins(slots_view((1, 1)))
    assert not preload_begins(slots_view())


def test_a_queue_at_one_instance_takes_no_slots_of_others() -> None:
    assert preload_begins(slots_view((1, 9), (1, 0), (1, 0), (1, 0)))
