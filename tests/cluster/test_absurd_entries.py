"""Entries in the store with numbers that cannot be true: they change nothing for the real copies of a model."""

import asyncio
import json

from cluster_stories import play

from modelmesh.control.view.state import ClusterState
from modelmesh.ports import Delete, KeyValue, Put, Transaction
from modelmesh.testing.cluster import KEYS, SimulatedCluster, register
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.status import Status


async def put(cluster: SimulatedCluster, key: str, fields: dict[str, object]) -> None:
    await cluster.store.transact(Transaction(compares=(), then=(Put(key, json.dumps(fields).encode()),)))
    await asyncio.sleep(1)


async def delete(cluster: SimulatedCluster, key: str) -> None:
    await cluster.store.transact(Transaction(compares=(), then=(Delete(key),)))
    await asyncio.sleep(1)


def test_a_listed_size_that_its_instance_cannot_have_is_not_believed() -> None:
    """It was kept as the model's size for ever, and every call was refused: the model was too large for all instances."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await cluster.add("b")
        await register(a, "m")
        key = KEYS.copy(ModelId("m"), InstanceId("b"))
        listed: dict[str, object] = {"state": "loaded", "since": 1, "load": 1, "size": 2**63, "record": 1}
        await put(cluster, key, listed)
        await delete(cluster, key)
        answer = await cluster.call("m", via="a")
        assert answer.status is Status.OK, answer.message

    play(story)


def test_a_size_is_forgotten_when_the_only_instance_that_could_have_it_has_left() -> None:
    """An entry with an absurd capacity and a copy with an absurd size may come together."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m")
        stranger = InstanceId("stranger")
        member: dict[str, object] = {"addr": "nowhere", "cap": 2**62, "unit": 100, "slots": 1}
        copy: dict[str, object] = {"state": "loaded", "since": 1, "load": 1, "size": 2**61, "record": 1}
        keys = {KEYS.member(stranger): member, KEYS.copy(ModelId("m"), stranger): copy}
        for key, fields in keys.items():
            await put(cluster, key, fields)
        for key in reversed(keys):
            await delete(cluster, key)
        answer = await cluster.call("m", via="a")
        assert answer.status is Status.OK, answer.message

    play(story)


def test_a_copy_of_a_record_that_cannot_exist_yet_does_not_hide_the_others() -> None:
    """Seed 56: it was taken for a later registration of the model, so that all real copies were void until the next listing."""

    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m")
        await cluster.call("m", via="a")
        key = KEYS.copy(ModelId("m"), InstanceId("stranger"))
        listed: dict[str, object] = {"state": "loaded", "since": 1, "load": 1, "size": 1, "record": 2**53}
        await put(cluster, key, listed)
        assert [copy.instance for copy in a.plane.state.model(ModelId("m")).copies] == ["a"]
        await delete(cluster, key)
        assert [copy.instance for copy in a.plane.state.model(ModelId("m")).copies] == ["a"]

    play(story)


def test_a_copy_of_an_instance_without_an_entry_does_not_outlive_the_store() -> None:
    """Seed 213: it stayed for ever, because what others hold is kept until they list it in the new store."""
    state = ClusterState(InstanceId("a"), KEYS)
    copy = json.dumps({"state": "loaded", "since": 1, "load": 1, "size": 1, "record": 1}).encode()
    member = json.dumps({"addr": "b:1", "cap": 10, "unit": 1, "slots": 1}).encode()
    entries = {
        KEYS.member(InstanceId("b")): member,
        KEYS.copy(ModelId("m"), InstanceId("b")): copy,
        KEYS.copy(ModelId("m"), InstanceId("stranger")): copy,
    }
    state.load([KeyValue(key, value, Revision(2), Revision(2), 1) for key, value in entries.items()], Revision(2))
    assert [copy.instance for _, copy in state.copies()] == ["b", "stranger"]
    for _ in range(2):  # the second store, too, comes before the instance has listed its copy
        state.load((), Revision(1), replaced=True)
        assert [(copy.instance, copy.unlisted) for _, copy in state.copies()] == [("b", True)]
