"""Values at their extremes, and values that are none, from runtimes and in the store."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

from modelmesh.ports import Delete, Put, Transaction
from modelmesh.testing.cluster import KEYS
from modelmesh.testing.world import World
from modelmesh.values.ids import InstanceId, ModelId

NUMBERS = (-(2**63), -1, 0, 1, 2**29, 2**31 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**40)
VALUES: tuple[object, ...] = (*NUMBERS, *NUMBERS, 1.5, True, None, "text", "\ud800", [], {"m": [-1, 2**40, 0]})
STRANGER = InstanceId("stranger")
"""An instance that does not exist; it has an entry for a while."""

COPY_FIELDS = ("load", "load", "load", "since", "size", "record", "state")
FAILURE_FIELDS = ("kind", "msg", "count", "since", "until", "record")
MEMBER_FIELDS = (
    "start",
    "cap",
    "used",
    "reserve",
    "unit",
    "count",
    "oldest",
    "slots",
    "loads",
    "busy",
    "hot",
    "labels",
)


class ExtremeFaults:
    """Faults of what is said and written."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.kinds: Mapping[str, Callable[[], Awaitable[bool | None]]] = {
            "extreme_copy": self._copy,
            "extreme_failure": self._failure,
            "extreme_member": self._member,
            "extreme_record": self._record,
            "extreme_runtime": self._runtime,
            "unknown_words": self._later_version,
        }

    def _spoilt(self, fields: Mapping[str, object], names: tuple[str, ...]) -> bytes:
        """A record with one to three fields at their extremes; seldom no record at all."""
        rng = self._world.rng
        if rng.random() < 0.1:
            return rng.choice((b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"a":' * 20_000))
        chosen = rng.sample(names, rng.randint(1, min(3, len(names))))
        return json.dumps({**fields, **{name: rng.choice(VALUES) for name in chosen}}).encode()

    async def _for_a_while(self, key: str, value: bytes) -> None:
        """A key without a writer and a lease exists for a while."""
        await self._world.memory.transact(Transaction(compares=(), then=(Put(key, value),)))
        await asyncio.sleep(self._world.rng.uniform(0.5, 15))
        await self._world.memory.transact(Transaction(compares=(), then=(Delete(key),)))

    def _model(self) -> ModelId:
        return self._world.rng.choice(list(self._world.artefacts))

    def _instance(self) -> InstanceId:
        return self._world.rng.choice([*self._world.cluster.instances, STRANGER])

    async def _copy(self) -> None:
        """Keys of copies that do not exist, or of some that do."""
        usual = {"state": "loaded", "since": 1, "load": 1, "size": 1, "record": 0}
        keys = {KEYS.copy(self._model(), self._instance()): self._spoilt(usual, COPY_FIELDS) for _ in range(3)}
        await asyncio.gather(*(self._for_a_while(key, value) for key, value in keys.items()))

    async def _failure(self) -> None:
        """A failure that did not happen."""
        usual = {"kind": "bad_model", "msg": "scripted failure", "count": 1, "since": 1, "until": 1, "record": 1}
        await self._for_a_while(KEYS.failure(self._model(), self._instance()), self._spoilt(usual, FAILURE_FIELDS))

    async def _member(self) -> None:
        """A member with an absurd entry that cannot be reached."""
        usual = {"addr": "nowhere", "cap": 10_000, "unit": 100, "slots": 1}
        await self._for_a_while(KEYS.member(STRANGER), self._spoilt(usual, MEMBER_FIELDS))

    async def _record(self) -> bool:
        """A person edits when a model was used and unloaded last."""
        key = KEYS.model(self._model())
        item = await self._world.memory.get(key)
        if item is None:
            return False
        rng = self._world.rng
        fields = {
            **json.loads(item.value),
            rng.choice(("lu", "lul")): rng.choice(NUMBERS),
            "unknown": rng.choice(VALUES[:-3]),
        }
        await self._world.memory.transact(Transaction(compares=(), then=(Put(key, json.dumps(fields).encode()),)))
        return True

    async def _later_version(self) -> None:
        """An instance speaks in words that are not known yet."""
        name, later = self._world.some(), self._world.cluster.network.from_the_future
        later.add(name)
        await asyncio.sleep(self._world.rng.uniform(2, 30))
        later.discard(name)

    async def _runtime(self) -> None:
        """A runtime says absurd things of what it loads; then it is restarted."""
        rng = self._world.rng
        runtime = self._world.cluster.instances[self._world.some()].runtime
        size, concurrency = rng.choice((0, 1, 2**63, 2**64 - 1)), rng.choice((0, 1, 2**29, 2**31 - 1, 2**32 - 1))
        before = runtime.max_concurrency
        runtime.reported_size, runtime.max_concurrency = (lambda _: size), concurrency
        runtime.crash()  # so that it is asked whether it limits calls
        await asyncio.sleep(rng.uniform(2, 15))
        runtime.reported_size, runtime.max_concurrency = (lambda true: true), before
        runtime.crash()
