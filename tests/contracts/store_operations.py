"""What the suites of the stores do with a store."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from modelmesh.ports import (
    Change,
    Compare,
    Operation,
    Put,
    Store,
    Transaction,
    TransactionResult,
)
from modelmesh.values.ids import Revision


async def run(store: Store, *operations: Operation, when: Sequence[Compare] = ()) -> TransactionResult:
    return await store.transact(Transaction(tuple(when), operations))


async def put(store: Store, key: str, value: bytes = b"v", lease: int = 0) -> Revision:
    return (await run(store, Put(key, value, lease))).revision


async def put_many(store: Store, keys: Sequence[str]) -> None:
    await asyncio.gather(
        *(run(store, *(Put(key, key.encode()) for key in keys[i : i + 100])) for i in range(0, len(keys), 100))
    )


async def keys_of(store: Store, prefix: str) -> list[str]:
    return [item.key for item in (await store.range(prefix)).items]


async def collect(watch: AsyncIterator[tuple[Change, ...]], count: int) -> list[tuple[Change, ...]]:
    """Batches until they hold `count` changes."""
    batches: list[tuple[Change, ...]] = []
    async with contextlib.aclosing(watch) as batches_to_come:  # type: ignore[type-var]
        async for batch in batches_to_come:
            batches.append(batch)
            if sum(map(len, batches)) >= count:
                break
    return batches


def shown(changes: Sequence[Change]) -> list[tuple[str, str, bytes]]:
    return [(change.kind.value, change.item.key, change.item.value) for change in changes]
