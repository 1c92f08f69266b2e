"""Which instances are about to be replaced."""

from modelmesh.policy.upgrade import ROLLOUT_MS, outdated
from modelmesh.values.ids import InstanceId
from modelmesh.values.records import MemberRecord
from modelmesh.values.view import InstanceView

NOW = 100 * ROLLOUT_MS
OLD = NOW - 10 * ROLLOUT_MS


def member(name: str, started_ms: int, *labels: str) -> InstanceView:
    return InstanceView(InstanceId(name), MemberRecord("", started_ms=started_ms, labels=labels))


def names(*members: InstanceView, now_ms: int = NOW) -> list[str]:
    return sorted(outdated(members, now_ms=now_ms))


def test_a_set_is_outdated_while_a_newer_one_starts() -> None:
    members = [member("aaaaaa-11111", OLD), member("aaaaaa-22222", OLD + 5), member("bbbbbb-33333", NOW - 1000)]
    assert names(*members) == ["aaaaaa-11111", "aaaaaa-22222"]


def test_it_is_not_any_more_once_the_rollout_is_over() -> None:
    members = [member("aaaaaa-11111", OLD), member("bbbbbb-33333", NOW)]
    assert names(*members, now_ms=NOW + ROLLOUT_MS) == []


def test_a_set_that_grows_is_not_a_rollout() -> None:
    assert names(member("aaaaaa-11111", OLD), member("aaaaaa-22222", NOW)) == []


def test_sets_with_other_labels_are_other_deployments() -> None:
    assert names(member("aaaaaa-11111", OLD, "rt:x"), member("bbbbbb-22222", NOW, "rt:y")) == []
    assert names(member("aaaaaa-11111", OLD, "rt:x"), member("bbbbbb-22222", NOW, "rt:x")) == ["aaaaaa-11111"]


def test_only_sets_older_than_the_newest_are_outdated() -> None:
    members = [member("aaaaaa-11111", OLD), member("aaaaaa-22222", NOW), member("bbbbbb-33333", NOW - 1000)]
    assert names(*members) == []  # the first set is being scaled up during the rollout: not clearly leaving


def test_ids_that_are_not_from_pods_belong_to_no_set() -> None:
    assert names(member("instance-1", OLD), member("0123456789ab", NOW)) == []
