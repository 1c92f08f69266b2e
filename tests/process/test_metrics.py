"""Metrics of real processes, read as Prometheus and StatsD read them."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
import grpc
import pytest
from conftest import PREDICT, Mesh, StartMesh, eventually
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse

from modelmesh.values.metrics import FAMILIES, Kind, Source

pytestmark = pytest.mark.process

UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname = False
UNVERIFIED.verify_mode = ssl.CERT_NONE


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def get(url: str, **headers: str) -> tuple[int, Mapping[str, str], str]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=UNVERIFIED)) as session,
        session.get(url, headers=headers) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


async def scrape(url: str) -> dict[str, Metric]:
    _, _, text = await get(url)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    series = [line.rpartition(" ")[0] for line in lines]
    assert len(set(series)) == len(series), "every series stands once"
    return {metric.name: metric for metric in parse(text)}


def value(metric: Metric, suffix: str = "", **labels: str) -> float:
    found = [
        sample.value
        for sample in metric.samples
        if sample.name == metric.name + suffix and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (metric.name, suffix, labels, metric.samples)
    return found[0]


async def test_prometheus_is_told_by_https_and_per_model(start_mesh: StartMesh) -> None:
    port = free_port()
    url = f"https://127.0.0.1:{port}/metrics"
    mesh = await start_mesh(
        environment={
            "MM_METRICS": f"prometheus:port={port};scheme=https;per_model_metrics=true",
            "MM_INFO_METRICS": "name:relabel;deployment=DEPLOYMENT_NAME",
            "DEPLOYMENT_NAME": "ga-tf-mm",
        }
    )
    await mesh.register("m", load=True, sync=True)
    for _ in range(5):
        await mesh.predict("m")
    await mesh.predict("m", "x" * 100_000)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await mesh.predict("nobody")
    with contextlib.suppress(grpc.aio.AioRpcError):
        await mesh.predict("")

    async def counted() -> bool:
        found = await scrape(url)
        requests = found["modelmesh_api_request_milliseconds"]
        done = sum(sample.value for sample in requests.samples if sample.name.endswith("_count")) == 7
        return done and "modelmesh_models_managed_total" in found

    await eventually(counted)
    found = await scrape(url)
    call = {"method": "predict", "code": "OK", "modelId": "m", "vModelId": ""}
    assert value(found["modelmesh_api_request_milliseconds"], "_count", **call) == 6
    assert value(found["modelmesh_invoke_model_milliseconds"], "_count", **call) == 6
    assert value(found["modelmesh_invoke_model_milliseconds"], "_bucket", **call, le="120000.0") == 6
    assert value(found["modelmesh_request_size_bytes"], "_bucket", **call, le="128.0") == 5
    assert value(found["modelmesh_request_size_bytes"], "_sum", **call) > 100_000
    assert value(found["modelmesh_response_size_bytes"], "_count", **call) == 6
    missing = {"method": "predict", "code": "NOT_FOUND", "modelId": "", "vModelId": ""}
    assert value(found["modelmesh_api_request_milliseconds"], "_count", **missing) == 1
    assert value(found["modelmesh_rejected_requests"], "_total", reason="bad-id") == 1
    assert value(found["modelmesh_loadmodel_milliseconds"], "_count", modelId="m") == 1
    assert value(found["modelmesh_loading_queue_delay_milliseconds"], "_count", modelId="m") == 1
    assert value(found["modelmesh_loaded_model_size_bytes"], "_count", modelId="m") == 1
    assert value(found["modelmesh_loadmodel_failure"]) == 0
    assert value(found["modelmesh_instance_models_total"]) == 1
    assert value(found["modelmesh_models_managed_total"]) == 1
    assert value(found["modelmesh_models_loaded_total"]) == 1
    assert value(found["modelmesh_models_with_failure_total"]) == 0
    assert value(found["modelmesh_instance_used_bytes"]) > 0
    assert 0 <= value(found["modelmesh_instance_used_bps"]) <= 10_000
    assert value(found["modelmesh_management_milliseconds"], "_count", method="registerModel", code="OK") == 1
    assert value(found["modelmesh_store_milliseconds"], "_count", operation="transact") > 0
    assert value(found["name:relabel"], deployment="ga-tf-mm") == 1
    assert value(found["process_resident_memory_bytes"]) > 0

    known = {family.name: family for family in FAMILIES}
    for name, metric in found.items():
        if name.startswith("modelmesh_"):
            assert known[name].meaning == metric.documentation
    told = {name for name, family in known.items() if family.source is Source.CORE or family.kind is not Kind.HISTOGRAM}
    labelled = {name for name in told if known[name].labels and known[name].source is Source.CONTROL}
    assert told - labelled <= {*found}, "the core tells of every family that it has"

    await mesh.unregister("m")

    async def forgotten() -> bool:
        _, _, text = await get(url)
        return 'modelId="m"' not in text

    await eventually(forgotten)


async def test_scrapes_are_negotiated_filtered_and_bounded(start_mesh: StartMesh) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    mesh = await start_mesh(
        environment={
            "MM_METRICS": f"prometheus:port={port};scheme=http;mem_detail=none",
            "MM_LOG_PROMETHEUS_REQS": "true",
        }
    )
    await mesh.register("m", load=True, sync=True)
    await mesh.predict("m")
    status, headers, text = await get(f"{base}/metrics/")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers["Content-Encoding"] in {"gzip", "deflate"}
    assert "process_" not in text
    assert "python_" not in text
    assert "modelId" not in text
    _, headers, text = await get(f"{base}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {metric.name for metric in parse_open_metrics(text)}
    assert {"modelmesh_rejected_requests", "modelmesh_loadmodel_failure", "modelmesh_api_request_milliseconds"} <= names
    _, _, text = await get(
        f"{base}/metrics?name[]=modelmesh_connections&name[]=modelmesh_instance_models_total&name[]=nothing"
    )
    assert {metric.name for metric in parse(text)} == {"modelmesh_connections", "modelmesh_instance_models_total"}
    assert (await get(f"{base}/elsewhere"))[0] == 404
    assert (await get(f"{base}/metrics?{'&'.join(['name[]=x'] * 257)}"))[0] == 400
    assert "metrics_scraped" in mesh.log()


async def test_a_taken_port_ends_the_start_and_an_unknown_back_end_does_not(start_mesh: StartMesh) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Exception, match=r"metrics cannot listen on .*MM_METRICS"):
            await start_mesh(environment={"MM_METRICS": f"prometheus:port={port}"})
    mesh = await start_mesh(environment={"MM_METRICS": "graphite"})
    await mesh.register("m", load=True, sync=True)
    await mesh.predict("m")
    assert "metrics_disabled" in mesh.log()


class Listener(asyncio.DatagramProtocol):
    """A StatsD server."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def datagram_received(self, data: bytes, address: Any) -> None:
        assert len(data) <= 1400
        self.lines += data.decode().splitlines()


async def listen() -> tuple[Listener, asyncio.DatagramTransport, int]:
    loop = asyncio.get_running_loop()
    transport, listener = await loop.create_datagram_endpoint(Listener, local_addr=("127.0.0.1", 0))
    return listener, transport, transport.get_extra_info("sockname")[1]


async def call(mesh: Mesh) -> None:
    await mesh.register("m", load=True, sync=True)
    await mesh.predict("m")


async def test_statsd_is_told_by_new_and_by_old_names(start_mesh: StartMesh) -> None:
    new, new_transport, new_port = await listen()
    old, old_transport, old_port = await listen()
    await call(await start_mesh(environment={"MM_METRICS": f"statsd:port={new_port};fq_names=true"}))
    await call(await start_mesh(environment={"MM_METRICS": f"statsd:port={old_port};legacy=true"}))
    full = PREDICT.replace("/", ".")

    def told(listener: Listener, beginning: str, kind: str) -> bool:
        return any(line.startswith(f"{beginning}:") and line.endswith(f"|{kind}") for line in listener.lines)

    async def all_told() -> bool:
        return all(
            told(new, name, kind)
            for name, kind in (
                (f"modelmesh_api_request_milliseconds_statsd#code=OK,method={full}", "ms"),
                (f"modelmesh_api_request_statsd#code=OK,method={full}", "c"),
                (f"modelmesh_request_size_bytes_statsd#code=OK,method={full}", "ms"),
                ("modelmesh_loadmodel_milliseconds_statsd", "ms"),
                ("modelmesh_loadmodel_statsd", "c"),
                ("modelmesh_instance_models_total_statsd", "g"),
            )
        ) and all(
            told(old, f"model-mesh.{name}", kind)
            for name, kind in (
                ("api-predict", "ms"),
                ("api-predict.OK", "c"),
                ("invoke-predict", "ms"),
                ("respSize-predict.OK", "ms"),
                ("loadModel", "ms"),
                ("modelCount", "g"),
                ("totalCapacity", "g"),
            )
        )

    await eventually(all_told)
    new_transport.close()
    old_transport.close()
