"""What entries of other instances cannot say yet: loads sent there, and that they will go."""

from dataclasses import replace

from modelmesh.control.view import placed
from modelmesh.control.view.placed import ENTRY_LAG_MS, OUTDATED_LOOK_MS, Placed
from modelmesh.policy.upgrade import ROLLOUT_MS
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.memory import Memory
from modelmesh.values.records import MemberRecord
from modelmesh.values.view import ClusterView, InstanceView

M, N = ModelId("m"), ModelId("n")
A, B = InstanceId("aaaaaa-11111"), InstanceId("bbbbbb-11111")
RECORD = MemberRecord(address="a", capacity=Memory(1000), used=Memory(100), runtime_ready=True, started_ms=0)
LATE_MS = 2 * ROLLOUT_MS


def view(**records: MemberRecord) -> ClusterView:
    names = {"a": A, "b": B}
    return ClusterView(A, Revision(1), tuple(InstanceView(names[name], record) for name, record in records.items()))


def used(entries: tuple[InstanceView, ...]) -> list[tuple[int, int]]:
    return [(entry.record.used.bytes, entry.record.loads) for entry in entries]


def test_what_was_sent_counts_until_the_entry_can_say_it() -> None:
    loads = Placed()
    cluster = view(a=RECORD, b=RECORD)
    assert loads.look(cluster, 0, epoch_ms=LATE_MS) == (cluster.instances, OUTDATED_LOOK_MS)
    loads.sent(M, B, Memory(50), 10)
    loads.sent(M, B, Memory(30), 20)
    entries, until_ms = loads.look(cluster, 20, epoch_ms=LATE_MS)
    assert used(entries) == [(100, 0), (180, 2)]
    assert until_ms == 10 + ENTRY_LAG_MS
    entries, until_ms = loads.look(cluster, until_ms, epoch_ms=LATE_MS)
    assert used(entries) == [(100, 0), (130, 1)]
    assert loads.look(cluster, until_ms + 10, epoch_ms=LATE_MS)[0] == cluster.instances


def test_what_was_sent_is_loading_until_its_key_is_seen_or_does_not_come() -> None:
    loads, keys = Placed(), set[tuple[ModelId, InstanceId]]()

    def loading(seen: dict[InstanceId, int], now_ms: int) -> dict[InstanceId, int]:
        return dict(loads.loading(seen, lambda *load: load in keys, now_ms))

    assert loading({A: 1}, 0) == {A: 1}
    loads.sent(M, B, Memory(50), 0)
    loads.sent(N, B, Memory(50), 10)
    assert loading({A: 1, B: 1}, 20) == {A: 1, B: 3}
    keys.add((M, B))
    assert loading({A: 1, B: 2}, 30) == {A: 1, B: 3}
    keys.clear()  # loaded, and gone again: it does not count anew
    assert loading({B: 1}, 40) == {B: 2}
    assert loading({B: 1}, 10 + ENTRY_LAG_MS) == {B: 1}


def test_a_new_entry_is_adjusted_anew_and_an_old_one_is_not_written_again() -> None:
    loads = Placed()
    cluster = view(a=RECORD, b=RECORD)
    loads.sent(M, B, Memory(50), 0)
    first = loads.look(cluster, 0, epoch_ms=LATE_MS)[0][1]
    assert loads.look(cluster, 1, epoch_ms=LATE_MS)[0][1] is first
    cluster = view(a=RECORD, b=replace(RECORD, used=Memory(500)))
    assert used(loads.look(cluster, 2, epoch_ms=LATE_MS)[0]) == [(100, 0), (550, 1)]


def test_what_was_sent_to_an_instance_that_has_gone_is_nothing() -> None:
    loads = Placed()
    loads.sent(M, B, Memory(50), 0)
    assert used(loads.look(view(a=RECORD), 0, epoch_ms=LATE_MS)[0]) == [(100, 0)]


def test_an_instance_that_is_being_replaced_is_marked_as_soon_as_its_successor_is_there() -> None:
    loads = Placed()
    old = view(a=RECORD)
    assert not loads.look(old, 0, epoch_ms=LATE_MS)[0][0].outdated
    both = view(a=RECORD, b=replace(RECORD, started_ms=LATE_MS))
    entries, _ = loads.look(both, 1, epoch_ms=LATE_MS)
    assert [entry.outdated for entry in entries] == [True, False]
    assert (loads.is_replaced(A), loads.is_replaced(B)) == (True, False)
    entries, _ = loads.look(both, 1 + OUTDATED_LOOK_MS, epoch_ms=LATE_MS + ROLLOUT_MS)
    assert [entry.outdated for entry in entries] == [False, False], "the rollout is over"


def test_who_is_being_replaced_is_not_asked_at_every_change_of_an_entry(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(placed, "outdated", lambda instances, **_: asked.append(instances) or frozenset())
    loads = Placed()
    for turn in range(100):
        loads.look(view(a=RECORD, b=replace(RECORD, used=Memory(turn))), turn, epoch_ms=LATE_MS)
    assert len(asked) == 1
