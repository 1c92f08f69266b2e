"""Many small transactions in one: what shares a group, and what happens when a group fails."""

import asyncio

import pytest

from modelmesh.adapters.store import etcd_groups
from modelmesh.adapters.store.etcd_groups import GROUP, Footprint, Groups, footprint
from modelmesh.ports import (
    Compare,
    Delete,
    Get,
    LeaseNotFoundError,
    Put,
    Store,
    StoreError,
    StoreUnavailableError,
    Transaction,
    TransactionResult,
)
from modelmesh.values.ids import Revision


def put(key: str, lease: int = 0) -> Transaction:
    return Transaction((), then=(Put(key, b"v", lease),))


class Etcd:
    """Records what is sent; answers when let."""

    def __init__(self) -> None:
        self.sent: list[Transaction] = []
        self.gate = asyncio.Event()
        self.errors: list[StoreError] = []

    async def run(self, transaction: Transaction) -> TransactionResult:
        self.sent.append(transaction)
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        answers = [TransactionResult(True, Revision(1), ()) for one in transaction.then if isinstance(one, Transaction)]
        return TransactionResult(True, Revision(1), tuple(answers))

    def sizes(self) -> list[int]:
        return [max(1, sum(isinstance(one, Transaction) for one in sent.then)) for sent in self.sent]


async def together(groups: Groups, etcd: Etcd, *transactions: Transaction) -> list[object]:
    """One goes alone, these gather meanwhile."""
    tasks = await under_way(groups, put("first"), *transactions)
    etcd.gate.set()
    return (await asyncio.gather(*tasks, return_exceptions=True))[1:]


async def under_way(groups: Groups, *transactions: Transaction) -> list["asyncio.Task[TransactionResult]"]:
    """The first is on its way, the others wait."""
    tasks = []
    for one in transactions:
        tasks.append(asyncio.create_task(groups.transact(one, footprint(one))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return tasks


async def test_what_waits_while_one_is_under_way_goes_together_in_bounded_groups() -> None:
    etcd = Etcd()
    await together(Groups(etcd.run), etcd, *(put(f"k{number}") for number in range(GROUP + 3)))
    assert etcd.sizes() == [1, GROUP, 3]


async def test_who_touches_the_same_keys_waits_for_the_next_group_in_order() -> None:
    etcd = Etcd()
    read = Transaction((Compare("copies/m/", "mod", "<", 5, prefix=True),), then=(Put("other"),))
    writes = (put("a"), put("a"), put("copies/m/i"), read, put("other"), put("b"))
    await together(Groups(etcd.run), etcd, *writes)
    assert etcd.sizes() == [1, 3, 2, 1]


async def test_callers_who_were_answered_together_share_the_next_group_too() -> None:
    etcd = Etcd()
    etcd.gate.set()
    groups = Groups(etcd.run)

    async def caller(number: int) -> None:
        for turn in range(5):
            await groups.transact(put(f"{number}/{turn}"), Footprint(writes={f"{number}/{turn}"}))
            for _ in range(number):  # they do not come back in the same turn of the loop
                await asyncio.sleep(0)

    await asyncio.gather(*(caller(number) for number in range(4)))
    assert etcd.sizes() == [4, 4, 4, 4, 4]


async def test_nobody_waits_long_for_those_who_do_not_come_back() -> None:
    etcd = Etcd()
    await together(Groups(etcd.run), etcd, put("a"), put("b"))
    groups = Groups(etcd.run)
    await asyncio.gather(*(groups.transact(put(key), footprint(put(key))) for key in "cd"))
    async with asyncio.timeout(10):
        await groups.transact(put("e"), footprint(put("e")))
    assert etcd.sizes() == [1, 2, 2, 1]


async def test_who_is_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_groups, "PAUSE_S", 3600)
    etcd = Etcd()
    etcd.gate.set()
    groups = Groups(etcd.run)
    for number in range(3):
        await groups.transact(put(f"k{number}"), footprint(put(f"k{number}")))
    # Nor does who waited for the keys of a group of several.
    writes = (put("a"), put("b"), put("a"), put("a"))
    async with asyncio.timeout(10):
        await asyncio.gather(*(groups.transact(write, footprint(write)) for write in writes))
    assert etcd.sizes() == [1, 1, 1, 2, 1, 1]


async def test_closing_tells_those_who_wait_for_others_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_groups, "PAUSE_S", 3600)
    etcd = Etcd()
    etcd.gate.set()
    groups = Groups(etcd.run)
    await asyncio.gather(*(groups.transact(put(key), footprint(put(key))) for key in "ab"))
    alone = asyncio.create_task(groups.transact(put("c"), footprint(put("c"))))
    await asyncio.sleep(0)
    await groups.close()
    with pytest.raises(StoreUnavailableError):
        await alone


@pytest.mark.parametrize(
    ("one", "two", "meet"),
    [
        (put("a"), put("b"), False),
        (put("a"), put("a"), True),
        (Transaction((Compare("a", "mod", "==", 1),), then=(Put("b"),)), put("a"), True),
        (Transaction((Compare("a", "mod", "==", 1),), then=()), Transaction((), then=(Get("a"),)), False),
        (Transaction((), then=(Delete("a/", prefix=True),)), put("a/b"), True),
        (Transaction((), then=(Delete("a/", prefix=True),)), Transaction((), then=(Get("a", prefix=True),)), True),
        (Transaction((), then=(Get("a/", prefix=True),)), put("a"), False),
        (Transaction((), then=(), otherwise=(put("x"),)), put("x"), True),
    ],
)
def test_whether_two_transactions_meet(one: Transaction, two: Transaction, meet: bool) -> None:
    assert footprint(one).meets(footprint(two)) is meet
    assert footprint(two).meets(footprint(one)) is meet


async def test_a_group_that_is_refused_is_sent_again_one_by_one() -> None:
    etcd = Etcd()
    refused = StoreError("refused")

    async def run(transaction: Transaction) -> TransactionResult:
        result = await etcd.run(transaction)
        if any(isinstance(one, Transaction) for one in transaction.then) or transaction == put("bad"):
            raise refused
        return result

    groups = Groups(run)
    ends = await together(groups, etcd, put("good"), put("bad"))
    assert [type(end) for end in ends] == [TransactionResult, StoreError]
    assert etcd.sizes() == [1, 2, 1, 1]


async def test_when_nobody_knows_whether_a_group_was_executed_nobody_repeats_it() -> None:
    etcd = Etcd()
    groups = Groups(etcd.run)
    tasks = await under_way(groups, put("a"), put("b"), put("c"))
    etcd.errors = [StoreUnavailableError("lost"), StoreUnavailableError("lost")]
    etcd.gate.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, StoreUnavailableError) for end in ends)
    assert etcd.sizes() == [1, 2]


async def test_who_gives_up_before_the_group_is_sent_is_left_out() -> None:
    etcd = Etcd()
    groups = Groups(etcd.run)
    tasks = await under_way(groups, put("a"), put("b"), put("c"))
    tasks[1].cancel()
    await asyncio.sleep(0)
    etcd.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert etcd.sent == [put("a"), put("c")]


async def test_closing_tells_those_who_wait() -> None:
    etcd = Etcd()
    groups = Groups(etcd.run)
    tasks = await under_way(groups, put("a"), put("b"))
    await groups.close()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, StoreUnavailableError) for end in ends)


async def test_a_lease_that_is_gone_fails_only_who_writes_under_it(store: Store) -> None:
    """Over every store, etcd included, with all at once."""
    lease = await store.grant(60_000)
    gone = await store.grant(60_000)
    await store.revoke(gone)
    writes = [store.transact(put(f"k{number}", gone if number == 7 else lease)) for number in range(50)]
    ends = await asyncio.gather(*writes, return_exceptions=True)
    assert [number for number, end in enumerate(ends) if isinstance(end, LeaseNotFoundError)] == [7]
    assert len((await store.range("k")).items) == 49


async def test_of_many_claims_at_once_one_wins_for_each_model(store: Store) -> None:
    def claim(model: int, instance: int) -> Transaction:
        prefix = f"copies/{model}/"
        return Transaction((Compare(prefix, "mod", "<", 1, prefix=True),), then=(Put(f"{prefix}{instance}"),))

    claims = [claim(model, instance) for instance in range(5) for model in range(30)]
    ends = await asyncio.gather(*(store.transact(one) for one in claims))
    won = [end.succeeded for end in ends]
    assert sum(won) == 30
    assert len((await store.range("copies/")).items) == 30
