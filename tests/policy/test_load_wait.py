"""What callers are told of a load that they do not wait for."""

from typing import Any

from modelmesh.policy.load_wait import LATEST_MS, SOONEST_MS, describe_wait
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.load_progress import LoadProgress, LoadStage
from modelmesh.values.memory import Memory
from modelmesh.values.records import CopyState, MemberRecord
from modelmesh.values.view import ClusterView, Copy, InstanceView, ModelView

M, HERE, THERE = ModelId("m"), InstanceId("i1"), InstanceId("i2")


def copy(instance: InstanceId, since_ms: int, state: CopyState = CopyState.LOADING) -> Copy:
    return Copy(instance, state, since_ms, LoadId(1), Memory(0), Revision(1), Revision(1), Revision(1))


def cluster(load_ms: int = 20_000, loads: int = 1) -> ClusterView:
    record = MemberRecord(address="a:1", capacity=Memory(1), loading_slots=1, load_ms=load_ms, loads=loads)
    views = tuple(InstanceView(instance, record) for instance in (HERE, THERE))
    return ClusterView(HERE, Revision(1), views, {HERE: loads, THERE: loads})


def told(*copies: Copy, now_ms: int, progress: LoadProgress | None = None, **of_cluster: Any) -> tuple[str, int]:
    wait = describe_wait(ModelView(M, copies), cluster(**of_cluster), progress=progress, now_ms=now_ms)
    return wait.text, wait.retry_ms


def test_the_rest_of_the_load_is_what_loads_there_take() -> None:
    assert told(copy(THERE, 1_000), now_ms=13_500) == ("model m is being loaded at i2 since 12 s", 7_500)
    assert told(copy(THERE, 1_000), now_ms=90_000)[1] == SOONEST_MS
    assert told(copy(THERE, 1_000), now_ms=1_000, load_ms=600_000)[1] == LATEST_MS
    assert told(copy(THERE, 5_000), now_ms=1_000) == ("model m is being loaded at i2 since 0 s", 20_000)


def test_loads_before_it_count() -> None:
    alone = told(copy(THERE, 0), now_ms=0)[1]
    assert told(copy(THERE, 0), now_ms=0, loads=3)[1] > alone


def test_the_stage_is_told_of_a_load_here() -> None:
    progress = LoadProgress(LoadStage.FETCHING, bytes_done=5_000_000, bytes_total=20_000_000)
    text, _ = told(copy(HERE, 0), now_ms=3_000, progress=progress)
    assert text == "model m is being loaded at i1 since 3 s: fetching, 4.8 MiB of 19.1 MiB"
    assert ":" not in told(copy(THERE, 0), now_ms=3_000, progress=progress)[0]


def test_without_a_load_there_is_nothing_to_tell() -> None:
    expected = ("the load of model m has not begun", SOONEST_MS)
    assert told(now_ms=0) == expected
    assert told(copy(HERE, 0, CopyState.LOADED), now_ms=0) == expected
