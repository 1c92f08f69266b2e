"""What every store promises, tried on each of them; then what each promises alone is in the files beside."""

import asyncio

import pytest
from store_operations import collect, keys_of, put, put_many, run, shown

from modelmesh.ports import (
    Compare,
    Delete,
    Get,
    KeyValue,
    Put,
    Store,
    StoreError,
    Transaction,
    TransactionResult,
)
from modelmesh.values.ids import Revision

# --- reading and writing ---


async def test_a_key_that_is_not_there_is_none(store: Store):
    assert await store.get("a") is None


async def test_a_put_is_read_back_with_its_revisions(store: Store):
    first = await put(store, "a", b"1")
    assert await store.get("a") == KeyValue("a", b"1", first, first, 1)
    second = await put(store, "a", b"2")
    assert second == first + 1
    assert await store.get("a") == KeyValue("a", b"2", first, second, 2)


async def test_a_key_put_again_after_its_deletion_is_new(store: Store):
    await put(store, "a")
    await put(store, "a")
    deleted = await run(store, Delete("a"))
    assert deleted.answers == (1,)
    assert await store.get("a") is None
    again = await put(store, "a")
    assert await store.get("a") == KeyValue("a", b"v", again, again, 1)


async def test_a_transaction_that_writes_nothing_makes_no_revision(store: Store):
    revision = await put(store, "a")
    result = await run(store, Delete("b"), Get("a"))
    assert result.revision == revision
    assert result.answers[0] == 0
    assert (await store.range("")).revision == revision


@pytest.mark.parametrize(
    "key",
    [
        "a/b//c/",
        "with space",
        "ünï/模型/🜂",
        "tab\tnew\nline",
        "\x01",
        "percent%2F",
        "quote'\"; DROP TABLE keys",
        "z" * 2000,
    ],
)
async def test_any_text_is_a_key(store: Store, key: str):
    revision = await put(store, key, b"x")
    assert await store.get(key) == KeyValue(key, b"x", revision, revision, 1)
    assert [item.key for item in (await store.range(key)).items] == [key]
    assert (await run(store, Delete(key))).answers == (1,)


@pytest.mark.parametrize("value", [b"", b"\x00", bytes(range(256)), b"\xff" * 100_000])
async def test_any_bytes_are_a_value(store: Store, value: bytes):
    await put(store, "a", value)
    item = await store.get("a")
    assert item is not None
    assert item.value == value


async def test_gets_in_a_transaction_see_what_it_wrote(store: Store):
    await put(store, "p/1", b"old")
    result = await run(store, Put("p/2", b"new"), Get("p/", prefix=True), Delete("p/1"), Get("p/", prefix=True))
    assert [[item.key for item in answer] for answer in result.answers if isinstance(answer, tuple)] == [
        ["p/1", "p/2"],
        ["p/2"],
    ]


async def test_a_get_over_a_prefix_obeys_its_limit(store: Store):
    await put_many(store, ["p/1", "p/2", "p/3"])
    (answer,) = (await run(store, Get("p/", prefix=True, limit=2))).answers
    assert isinstance(answer, tuple)
    assert [item.key for item in answer] == ["p/1", "p/2"]


async def test_a_prefix_is_deleted_in_one_revision(store: Store):
    await put_many(store, ["p/1", "p/2", "p/3", "q", "p"])
    before = (await store.range("")).revision
    result = await run(store, Delete("p/", prefix=True))
    assert result.answers == (3,)
    assert result.revision == before + 1
    assert await keys_of(store, "") == ["p", "q"]


# --- listing ---


async def test_a_range_has_the_keys_under_a_prefix_in_byte_order(store: Store):
    await put_many(store, ["p/ü", "p/b", "p/a", "p/a/1", "p0", "p", "p/Z", "p/🜂"])
    assert await keys_of(store, "p/") == ["p/Z", "p/a", "p/a/1", "p/b", "p/ü", "p/🜂"]
    assert await keys_of(store, "nothing/") == []


async def test_pages_at_one_revision_do_not_see_what_happens_meanwhile(store: Store):
    """1. list a page; 2. others change, delete, create and re-create keys; 3. the other pages are as of 1."""
    await put_many(store, ["p/1", "p/2", "p/3", "p/4", "p/5"])
    first = await store.range("p/", limit=2)
    assert first.more
    assert [item.key for item in first.items] == ["p/1", "p/2"]
    await run(store, Delete("p/3"))
    await put(store, "p/3", b"again")
    await put(store, "p/3", b"and again")
    await put(store, "p/4", b"changed")
    await put(store, "p/25", b"new")
    await run(store, Delete("p/5"))
    second = await store.range("p/", start_after="p/2", limit=2, revision=first.revision)
    assert second.more
    assert second.revision == first.revision
    assert [(item.key, item.value, item.version) for item in second.items] == [
        ("p/3", b"p/3", 1),
        ("p/4", b"p/4", 1),
    ]
    third = await store.range("p/", start_after="p/4", limit=2, revision=first.revision)
    assert not third.more
    assert [item.key for item in third.items] == ["p/5"]
    assert await keys_of(store, "p/") == ["p/1", "p/2", "p/25", "p/3", "p/4"]


async def test_a_page_that_ends_exactly_at_the_limit_is_the_last(store: Store):
    await put_many(store, ["p/1", "p/2"])
    assert not (await store.range("p/", limit=2)).more


async def test_a_page_after_the_last_key_is_empty(store: Store):
    await put(store, "p/1")
    assert (await store.range("p/", start_after="p/1")).items == ()
    assert (await store.range("p/", start_after="q")).items == ()
    assert [item.key for item in (await store.range("p/", start_after="a")).items] == ["p/1"]


async def test_ten_thousand_keys_are_listed_in_pages(store: Store):
    keys = [f"registry/m-{i:05}" for i in range(10_000)]
    await put_many(store, keys)
    found: list[str] = []
    listing = await store.range("registry/", limit=999)
    found += [item.key for item in listing.items]
    while listing.more:
        listing = await store.range("registry/", start_after=found[-1], limit=999, revision=listing.revision)
        found += [item.key for item in listing.items]
    assert found == keys
    assert await keys_of(store, "registry/") == keys


# --- compares ---


@pytest.mark.parametrize(
    ("target", "operand"),
    [("create", 0), ("mod", 1), ("version", 2), ("value", b"b")],
)
async def test_each_target_is_compared_with_each_operator(store: Store, target, operand):
    await put(store, "base")
    created = await put(store, "a", b"x")
    modified = await put(store, "a", b"b")
    actual = {"create": created, "mod": modified, "version": 2, "value": b"b"}[target]
    low, high = (b"a", b"c") if target == "value" else (actual - 1, actual + 1)
    for operator, against, expected in [
        ("==", actual, True), ("==", high, False),
        ("!=", actual, False), ("!=", low, True),
        ("<", actual, False), ("<", high, True), ("<", low, False),
        (">", actual, False), (">", low, True), (">", high, False),
    ]:  # fmt: skip
        result = await run(store, when=[Compare("a", target, operator, against)])
        assert result.succeeded is expected, (operator, against)


async def test_a_key_that_is_not_there_compares_as_zero(store: Store):
    for target in ("create", "mod", "version"):
        assert (await run(store, when=[Compare("a", target, "==", 0)])).succeeded
        assert not (await run(store, when=[Compare("a", target, ">", 0)])).succeeded
        assert (await run(store, when=[Compare("a", target, "<", 1)])).succeeded


async def test_the_value_of_a_key_that_is_not_there_satisfies_nothing(store: Store):
    for operator in ("==", "!=", "<", ">"):
        assert not (await run(store, when=[Compare("a", "value", operator, b"")])).succeeded


async def test_a_compare_over_a_prefix_needs_every_key_to_satisfy_it(store: Store):
    old = await put(store, "p/1")
    new = await put(store, "p/2")
    await put(store, "p0")
    assert (await run(store, when=[Compare("p/", "mod", "<", new + 1, prefix=True)])).succeeded
    assert not (await run(store, when=[Compare("p/", "mod", "<", old + 1, prefix=True)])).succeeded
    assert not (await run(store, when=[Compare("p/", "version", "==", 0, prefix=True)])).succeeded
    assert not (await run(store, when=[Compare("p/", "create", "!=", new, prefix=True)])).succeeded


async def test_an_empty_prefix_satisfies_whatever_can_be_asked_of_a_prefix(store: Store):
    for target in ("create", "mod", "version"):
        for operator, operand in (("==", 0), ("!=", 7), ("<", 1), (">", -1)):
            assert (await run(store, when=[Compare("none/", target, operator, operand, prefix=True)])).succeeded


@pytest.mark.parametrize(
    "compare",
    [
        Compare("p/", "mod", ">", 0, prefix=True),
        Compare("p/", "version", "==", 1, prefix=True),
        Compare("p/", "value", "==", b"x", prefix=True),
        Compare("p/", "value", "!=", b"x", prefix=True),
        Compare("a", "value", "==", 1),
        Compare("a", "mod", "==", b"1"),
        Compare("", "mod", "==", 1),
    ],
)
async def test_a_compare_that_not_every_store_can_answer_is_refused(store: Store, compare: Compare):
    with pytest.raises(ValueError):
        await run(store, Put("a"), when=[compare])


async def test_the_other_branch_runs_when_a_compare_fails(store: Store):
    result = await store.transact(
        Transaction((Compare("a", "mod", "==", 5),), (Put("then"),), (Put("otherwise"), Get("otherwise")))
    )
    assert not result.succeeded
    assert result.answers[0] is None
    assert await keys_of(store, "") == ["otherwise"]


# --- nested transactions ---


async def test_nested_transactions_share_one_revision_and_each_takes_its_own_branch(store: Store):
    """Group commits: the second of three has lost its race; the others go through."""
    revision = await put(store, "registry/b", b"by another")
    batch = [
        Transaction(
            (Compare(f"registry/{name}", "mod", "==", 0),), (Put(f"registry/{name}"),), (Get(f"registry/{name}"),)
        )
        for name in "abc"
    ]
    result = await run(store, *batch)
    assert result.revision == revision + 1
    inner = [answer for answer in result.answers if isinstance(answer, TransactionResult)]
    assert [answer.succeeded for answer in inner] == [True, False, True]
    assert all(answer.revision == result.revision for answer in inner)
    (seen,) = inner[1].answers
    assert isinstance(seen, tuple)
    assert seen[0].value == b"by another"  # type: ignore[union-attr]
    assert {item.mod_revision for item in (await store.range("registry/")).items} == {revision, revision + 1}


async def test_compares_of_nested_transactions_see_the_state_before_all_of_it(store: Store):
    await put(store, "a")
    result = await run(
        store,
        Delete("a"),
        Put("b"),
        Transaction((Compare("a", "version", "==", 1), Compare("b", "version", "==", 0)), (Put("saw the past"),)),
    )
    assert result.answers[-1].succeeded  # type: ignore[union-attr]
    assert await keys_of(store, "") == ["b", "saw the past"]


async def test_transactions_nest_deeply(store: Store):
    inner = Transaction((), (Put("deep"), Get("deep")))
    result = await run(store, Transaction((), (Transaction((), (inner,)),)))
    for _ in range(3):
        result = result.answers[0]  # type: ignore[assignment]
        assert isinstance(result, TransactionResult)
    assert result.answers[0] is None
    assert await keys_of(store, "") == ["deep"]


async def test_sixty_four_small_transactions_travel_as_one(store: Store):
    batch = [Transaction((Compare(f"k/{i}", "mod", "==", 0),), (Put(f"k/{i}"), Put(f"l/{i}"))) for i in range(64)]
    result = await run(store, *batch)
    assert len(await keys_of(store, "")) == 128
    assert {item.mod_revision for item in (await store.range("")).items} == {result.revision}


@pytest.mark.parametrize(
    "operations",
    [
        (Put("a"), Put("a")),
        (Put("a"), Transaction((), (Put("a"),))),
        (Transaction((), (Put("a"),)), Transaction((), (), (Put("a"),))),
        (Put("a"), Delete("a")),
        (Delete("p/", prefix=True), Put("p/a")),
        (Transaction((), (Delete("", prefix=True),)), Put("a")),
    ],
)
async def test_a_key_written_twice_is_refused_and_nothing_is_written(store: Store, operations):
    with pytest.raises(ValueError):
        await run(store, Put("other"), *operations)
    assert await keys_of(store, "") == []


async def test_the_two_branches_may_put_the_same_key(store: Store):
    await store.transact(Transaction((), (Put("a", b"then"),), (Put("a", b"otherwise"),)))
    await run(store, Transaction((Compare("a", "mod", "==", 0),), (Put("a", b"2"),), (Put("a", b"3"), Delete("b"))))
    item = await store.get("a")
    assert item is not None
    assert item.value == b"3"


async def test_a_list_too_long_for_etcd_is_refused_by_all(store: Store):
    with pytest.raises(ValueError, match="128"):
        await run(store, *(Put(f"k/{i}") for i in range(129)))


# --- keeping a value ---


async def test_keep_value_touches_a_key_without_changing_it(store: Store):
    created = await put(store, "registry/m", b"record")
    touched = (await run(store, Put("copies/m/i"), Put("registry/m", keep_value=True))).revision
    assert await store.get("registry/m") == KeyValue("registry/m", b"record", created, touched, 2)
    changes = (await collect(store.watch("registry/", start=touched), 1))[0]
    assert shown(changes) == [("put", "registry/m", b"record")]


async def test_keep_value_of_a_missing_key_refuses_the_whole_transaction(store: Store):
    with pytest.raises(StoreError):
        await run(store, Put("a"), Put("missing", keep_value=True))
    assert await keys_of(store, "") == []


async def test_keep_value_in_a_branch_that_does_not_run_needs_no_key(store: Store):
    result = await run(
        store, Put("a"), Transaction((Compare("missing", "create", "!=", 0),), (Put("missing", keep_value=True),))
    )
    assert result.succeeded


# --- the claim of a load ---


def claim(model: str, instance: str, above: Revision) -> Transaction:
    """The one rule: no copy of the model has been written after `above`, and the model is registered."""
    return Transaction(
        (
            Compare(f"copies/{model}/", "mod", "<", above + 1, prefix=True),
            Compare(f"registry/{model}", "create", ">", 0),
        ),
        (Put(f"copies/{model}/{instance}"), Get(f"registry/{model}")),
        (Get(f"copies/{model}/", prefix=True),),
    )


@pytest.mark.parametrize("dead", [0, 3])
async def test_of_fifty_claims_at_once_exactly_one_wins(store: Store, dead: int):
    """Also when the range holds keys of dead instances, all older than what the deciders have seen."""
    for i in range(dead):
        await put(store, f"copies/m/dead{i}")
    await put(store, "copies/m2/other")
    above = await put(store, "registry/m", b"record")
    results = await asyncio.gather(*(store.transact(claim("m", f"i{i}", above)) for i in range(50)))
    (winner,) = [result for result in results if result.succeeded]
    record = winner.answers[1]
    assert isinstance(record, tuple)
    assert record[0].value == b"record"  # type: ignore[union-attr]
    assert len(await keys_of(store, "copies/m/")) == dead + 1
    for loser in (result for result in results if not result.succeeded):
        (copies,) = loser.answers
        assert isinstance(copies, tuple)
        assert max(item.mod_revision for item in copies if isinstance(item, KeyValue)) == winner.revision


async def test_a_claim_of_a_model_that_is_not_registered_fails(store: Store):
    now = await put(store, "registry/m2")
    assert not (await store.transact(claim("m", "i", now))).succeeded


async def test_of_two_holders_that_drop_at_once_one_wins(store: Store):
    created = {name: await put(store, f"copies/m/{name}") for name in ("a", "b")}

    def drop(own: str, other: str) -> Transaction:
        return Transaction(
            (Compare(f"copies/m/{other}", "create", "==", created[other]),), (Delete(f"copies/m/{own}"),)
        )

    results = await asyncio.gather(store.transact(drop("a", "b")), store.transact(drop("b", "a")))
    assert sorted(result.succeeded for result in results) == [False, True]
    assert len(await keys_of(store, "copies/m/")) == 1
