"""Logs and traces of real processes."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from conftest import PREDICT, Mesh, StartMesh, eventually

from modelmesh.adapters.store import open_store
from modelmesh.ports import Put, Transaction
from modelmesh.testing.etcd import running_etcd
from modelmesh.testing.sinks import Sink

pytestmark = pytest.mark.process

HEADERS = {"ascii-header": "ah", "utf8-header-bin": "uh", "extra-header": "eh"}
METADATA = [("ascii-header", "plain"), ("utf8-header-bin", "êñü".encode()), ("unlisted", "no")]


def entries(mesh: Mesh) -> list[dict[str, Any]]:
    return [json.loads(line) for line in mesh.log().splitlines() if line.startswith("{")]


async def told(mesh: Mesh, wanted: Callable[[dict[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = [entry for entry in entries(mesh) if wanted(entry)]
        return len(found) >= count

    await eventually(there)
    return found


async def test_invocations_failures_and_management_calls_carry_the_callers_headers(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(
        environment={
            "MM_LOG_FORMAT": "json",
            "MM_LOG_EACH_INVOKE": "true",
            "MM_LOG_REQUEST_HEADERS": json.dumps(HEADERS),
        }
    )
    await mesh.register("m", load=True, sync=True)
    await mesh.predict("m", metadata=METADATA)
    (invoked,) = await told(mesh, lambda entry: entry["event"].startswith("invoking model runtime"))
    assert invoked["event"] == f"invoking model runtime gRPC method: {PREDICT}"
    assert (invoked["ah"], invoked["uh"], invoked["model"]) == ("plain", "êñü", "m")
    assert "eh" not in invoked
    assert "no" not in invoked.values()
    with pytest.raises(grpc.aio.AioRpcError):
        await mesh.predict("missing", metadata=[*METADATA, ("x-request-id", "r-7")])
    (failed,) = await told(mesh, lambda entry: entry["event"] == "call_failed")
    assert (failed["request_id"], failed["status"], failed["model"], failed["ah"]) == (
        "r-7",
        "NOT_FOUND",
        "missing",
        "plain",
    )


async def test_levels_and_invocations_follow_the_store(start_mesh: StartMesh) -> None:
    with running_etcd() as etcd:
        environment = {"KV_STORE": f"etcd:{etcd.endpoint}", "MM_LOG_FORMAT": "json", "MM_ACCESS_LOG": "all"}
        mesh = await start_mesh(environment=environment)
        store = await open_store(f"etcd:{etcd.endpoint}")
        try:
            (name,) = {
                item.key.split("/members/")[0] for item in (await store.range("")).items if "/members/" in item.key
            }

            async def config(key: str, value: str) -> None:
                change = Put(f"{name}/config/{key}", value.encode())
                await store.transact(Transaction(compares=(), then=(change,)))

            await mesh.register("m", load=True, sync=True)
            await mesh.predict("m")
            await told(mesh, lambda entry: entry["event"] == "call")
            await config("log_each_invocation", "true")
            await told(mesh, lambda entry: entry["event"] == "config_changed")
            await mesh.predict("m")
            await told(mesh, lambda entry: entry["event"].startswith("invoking"))
            await config("logger_level", "ERROR")

            async def told_of_a_call() -> bool:
                before = len(entries(mesh))
                await mesh.predict("m")
                await asyncio.sleep(0.2)
                return len(entries(mesh)) > before

            async def silent() -> bool:
                return not await told_of_a_call()

            await eventually(silent)
            await config("logger_level", "loud")  # as if it were not set
            await eventually(told_of_a_call)
        finally:
            await store.close()


async def test_a_cold_call_is_one_trace_with_its_load(start_mesh: StartMesh) -> None:
    async with Sink() as collector:
        mesh = await start_mesh(
            2,
            environment={"MM_TRACES_ENDPOINT": f"{collector.url}/v1/traces", "MM_TRACES_FRACTION": "0"},
            load_ms=50,
        )
        await mesh.register("m")
        trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        await mesh.predict("m", metadata=[("traceparent", f"00-{trace}-{parent}-01")])
        await mesh.predict("m")
        await mesh.close()
        await mesh.cluster.stop()
        spans = collector.spans()
    assert {span.trace_id.hex() for span in spans} == {trace}, "what nobody asked for is not traced"
    by_name: dict[str, list[Any]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span)
    assert {PREDICT, "modelmesh.hold", "modelmesh.load", "modelmesh.infer"} <= {*by_name}
    (root,) = [span for span in by_name[PREDICT] if span.parent_span_id.hex() == parent]
    ids = {span.span_id for span in spans}
    assert all(span.parent_span_id in ids for span in spans if span is not root), "every other parent is here"
    assert len(ids) == len(spans)
    (infer,) = by_name["modelmesh.infer"]
    assert len(by_name["modelmesh.load"]) == 1
    assert root.start_time_unix_nano <= infer.start_time_unix_nano
