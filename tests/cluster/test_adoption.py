"""A store that the archived Java project wrote is served at once: simulated clusters."""

import asyncio
import json

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.control.copies.entry import DropReason
from modelmesh.management.calls import Call
from modelmesh.ports import Put, Transaction
from modelmesh.testing.adopted import HOLDER, adopted_items, leased_items
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster
from modelmesh.values.ids import InstanceId, Token
from modelmesh.values.status import Status

NO_CALL = Call(Token(0), "", {}, send=lambda _: None)
LOADED = "loaded__isvc-0123456789"


async def write(cluster: SimulatedCluster, items: dict[str, bytes], lease: int = 0) -> None:
    puts = tuple(Put(key, value, lease) for key, value in items.items())
    await cluster.store.transact(Transaction(compares=(), then=puts))


async def registry(cluster: SimulatedCluster) -> dict[str, dict[str, object]]:
    items = (await cluster.store.range(KEYS.registry)).items
    return {item.key.removeprefix(KEYS.registry): json.loads(item.value) for item in items}


def test_models_and_vmodels_of_the_old_system_are_served_and_what_we_do_not_know_survives() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=9)
        try:
            await write(cluster, adopted_items(KEYS.base))
            a = await cluster.add("a")
            await cluster.add("b")
            for model in (LOADED, "failed", "a/b c"):
                assert (await cluster.call(model, via="b")).status is Status.OK
            for vmodel, model in (("settled", LOADED), ("moving", "a/b c")):
                answer = await cluster.call(vmodel, via="a", vmodel=True, payload=1)
                assert (answer.status, answer.payload) == (Status.OK, (model, 1))
            assert a.plane.scaler.limits.rate == 3000
            # A write of ours keeps what only the old system, or a later one, knows.
            for model in cluster.instances[InstanceId("a")].plane.cache.models():
                a.plane.cache.drop(model, DropReason.UNLOAD_ASKED)
            request = pb.SetVModelRequest(vModelId="moving", targetModelId=LOADED, force=True)
            await a.vmodels.set_vmodel(NO_CALL, request)
            await cluster.settled()
            records = await registry(cluster)
            assert records["failed"]["future"] == {"a": [1]}
            assert records[LOADED]["encKey"] == '{"storage_key":"s"}'
            assert records[LOADED]["refs"] == 2
            moved = await cluster.store.get(f"{KEYS.vmodels}moving")
            assert moved is not None
            assert json.loads(moved.value) == {"o": "ksp", "amid": LOADED, "tmid": LOADED, "x": 1}
        finally:
            await cluster.stop()

    run_virtual(main())


def test_what_the_old_system_noted_of_its_instances_goes_only_when_all_of_them_have_gone() -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=9)
        try:
            await write(cluster, adopted_items(KEYS.base))
            lease = await cluster.store.grant(10_000)
            await write(cluster, leased_items("", KEYS.base), lease)
            await cluster.add("a")
            for _ in range(60):
                await cluster.store.keep_alive(lease)
                await asyncio.sleep(5)
            records = await registry(cluster)
            assert records[LOADED]["instanceIds"] == {HOLDER: 1764000000000}
            assert records["failed"]["failedIn"] == {HOLDER: 1764000000001}
            await cluster.store.revoke(lease)
            await asyncio.sleep(900)
            for record in (await registry(cluster)).values():
                assert not {"instanceIds", "failedIn", "fails"} & set(record)
            assert (await registry(cluster))["failed"]["future"] == {"a": [1]}
        finally:
            await cluster.stop()

    run_virtual(main())
