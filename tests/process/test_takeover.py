"""Records that the archived Java project wrote into etcd are served: real processes."""

import json

import pytest
from conftest import Mesh, StartMesh, eventually

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.adapters.store import open_store
from modelmesh.control.view.keys import Keys
from modelmesh.instance.local_cluster import SERVICE
from modelmesh.ports import Put, Transaction
from modelmesh.testing.adopted import adopted_items, leased_items
from modelmesh.values.ids import ModelId

pytestmark = pytest.mark.process
KEYS = Keys(root="", prefix="tas-runtime", service=SERVICE)


async def record(mesh: Mesh, model: str) -> dict[str, object]:
    store = await open_store(mesh.cluster.store_setting)
    try:
        item = await store.get(KEYS.model(ModelId(model)))
    finally:
        await store.close()
    assert item is not None
    decoded: dict[str, object] = json.loads(item.value)
    return decoded


async def test_models_and_vmodels_of_the_old_system_are_served_from_etcd(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(2)
    store = await open_store(mesh.cluster.store_setting)
    items = {**adopted_items(KEYS.base, model_type="example"), **leased_items("", KEYS.base)}
    try:
        await store.transact(Transaction((), then=tuple(Put(key, value) for key, value in items.items())))
    finally:
        await store.close()
    for number, model in enumerate(("loaded__isvc-0123456789", "failed", "a/b c")):
        assert (await mesh.predict(model, via=number % 2)).results

        async def known_as_loaded(model: str = model) -> bool:
            return await mesh.state(model) == "LOADED"  # the other instance hears of it a moment later

        await eventually(known_as_loaded)
    for vmodel, active in (("settled", "loaded__isvc-0123456789"), ("moving", "a/b c")):
        assert (await mesh.predict("", metadata=[("mm-vmodel-id", vmodel)], via=1)).results
        request = pb.GetVModelStatusRequest(vModelId=vmodel)
        status = await mesh.call("mmesh.ModelMesh/getVModelStatus", request, pb.VModelStatusInfo)
        assert (status.activeModelId, status.owner) == (active, "ksp")
    request = pb.RegisterModelRequest(modelId="failed", modelInfo=pb.ModelInfo(type="example", path="SIZE_100_1_1"))
    await mesh.call("mmesh.ModelMesh/registerModel", request, pb.ModelStatusInfo)
    kept = await record(mesh, "failed")
    assert kept["future"] == {"a": [1]}
    assert kept["failedIn"] == {"6c4f6-x2x7p": 1764000000001}  # an instance of the old system still runs
