"""The REST listener: HTTP and JSON to calls of the core, and their answers back."""

import asyncio
import gzip
import io
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import grpc
import numpy as np
import pytest
from rest_client import Rest, X, mirror
from scripted import WAIT, Instance, Runtime, until
from yarl import URL

from modelmesh._proto import model_mesh_pb2 as mesh_pb
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.adapters.dataplane import ListenerTls
from modelmesh.testing.certificates import Authority
from modelmesh.values.dataplane import Fail, Missed, Naming
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status

Make = Callable[..., Instance]


@pytest.fixture
async def rest(make: Make, runtime: Runtime) -> AsyncIterator[Rest]:
    runtime.script["ModelInfer"] = mirror
    one = make(rest="127.0.0.1:0", max_message_bytes=1 << 20)
    one.local()
    client = Rest(one)
    yield client
    await client.session.close()


async def test_the_root_says_where_everything_is(rest: Rest) -> None:
    status, body, _ = await rest.ask("GET", "/")
    assert (status, body) == (
        200,
        {"server": "/v2", "models": "/v2/models", "openapi": "/openapi.json", "docs": "/docs/"},
    )


async def test_an_inference(rest: Rest, runtime: Runtime) -> None:
    status, body = await rest.infer("m", id="7")
    output = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.5, -3.0]}
    assert (status, body) == (200, {"model_name": "m", "id": "7", "outputs": [output]})
    assert runtime.metadata()["mm-model-id"] == "m"
    status, body, answer = await rest.ask("POST", "/v2/models/m/versions/2/infer", json={"inputs": [X]})
    assert (status, body["model_version"], answer.headers["Content-Type"]) == (200, "2", "application/json")
    status, _, _ = await rest.ask("POST", "/v2/models/m/infer", data=json.dumps({"inputs": [X]}))
    assert status == 415, "aiohttp says text/plain"


async def test_a_body_as_curl_sends_it(rest: Rest) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, _, _ = await rest.ask("POST", "/v2/models/m/infer", data=json.dumps({"inputs": [X]}), headers=headers)
    assert status == 200


@pytest.mark.parametrize("datatype", ["UINT8", "INT16", "INT64", "FP32", "FP64", "BOOL", "FP16"])
async def test_arrays_come_back_as_numpy_has_them(rest: Rest, datatype: str) -> None:
    kind = {"BOOL": "bool"}.get(datatype, datatype.replace("FP", "float").lower())
    values = np.arange(24).reshape(2, 3, 4).astype(kind) if kind == "bool" else (np.arange(24) * 5).astype(kind)
    values = values.reshape(2, 3, 4)
    tensor = {"name": "x", "datatype": datatype, "shape": [2, 3, 4], "data": values.tolist()}
    status, body = await rest.infer("m", tensor)
    assert status == 200
    assert body["outputs"][0]["data"] == values.ravel().tolist()


async def test_binary_tensors_both_ways(rest: Rest) -> None:
    values = np.linspace(0, 1, 1000, dtype=np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1000], "parameters": {"binary_data_size": 4000}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    status, body, answer = await rest.ask(
        "POST",
        "/v2/models/m/infer",
        data=head + values.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert (status, answer.headers["Content-Type"]) == (200, "application/octet-stream")
    assert json.loads(body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 4000}
    assert np.array_equal(np.frombuffer(body[length:], np.float32), values)


async def test_vmodels_are_found_first_and_models_remembered(rest: Rest, runtime: Runtime) -> None:
    rest.vmodels["v"] = mesh_pb.VModelStatusInfo(status=mesh_pb.VModelStatusInfo.DEFINED, activeModelId="m")
    rest.instance.plane.set_vmodels([("v", Naming("m"))])
    for _ in range(2):
        assert (await rest.infer("v"))[0] == 200
        assert runtime.metadata()["mm-model-id"] == "m"
    assert rest.asked == [], "the core knows it"
    for _ in range(3):
        assert (await rest.infer("m"))[0] == 200
    assert rest.asked == ["getVModelStatus"]
    # It has a vmodel of the same name now, which is seen when the model is not found.
    assert (await rest.infer("n"))[0] == 404
    rest.vmodels["n"] = rest.vmodels["v"]
    rest.instance.plane.set_vmodels([("n", Naming("m"))])
    assert (await rest.infer("n"))[0] == 200


async def test_the_version_of_a_path_chooses_a_model_of_a_vmodel(rest: Rest, runtime: Runtime) -> None:
    for model in ("m", "n"):
        rest.instance.local(model)
    rest.instance.plane.set_vmodels([("v", Naming("m", labels=(("new", ModelId("n")),)))])
    for version, model in [("new", "n"), ("n", "n"), ("stable", "m")]:
        status, body, _ = await rest.ask("POST", f"/v2/models/v/versions/{version}/infer", json={"inputs": [X]})
        assert (status, runtime.metadata()["mm-model-id"]) == (200, model), version
        assert "model_version" not in body, "it means nothing to the runtime"
    # What is no version of the vmodel may be one of the runtime.
    status, body, _ = await rest.ask("POST", "/v2/models/v/versions/7/infer", json={"inputs": [X]})
    assert (status, runtime.metadata()["mm-model-id"], body["model_version"]) == (200, "m", "7")


async def test_headers_win_over_the_path_and_pass(rest: Rest, runtime: Runtime) -> None:
    for name in ("mm-model-id", "Grpc-Metadata-mm-model-id"):
        headers = {name: "m", "X-Request-Id": "7", "Cookie": "secret"}
        status, _, _ = await rest.ask("POST", "/v2/models/other/infer", json={"inputs": [X]}, headers=headers)
        assert status == 200
        assert runtime.metadata()["x-request-id"] == "7"
        assert "cookie" not in runtime.metadata()
    assert rest.asked == []


async def test_errors_of_calls_have_their_status_and_their_text(rest: Rest, runtime: Runtime) -> None:
    assert await rest.infer("unknown") == (404, {"error": "model unknown is not registered"})

    async def refuse(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "nichts für ungut")
        yield b""

    runtime.script["ModelInfer"] = refuse
    assert await rest.infer() == (400, {"error": "nichts für ungut"})

    rest.instance.brain.decide = lambda event: (
        Fail(Status.UNAVAILABLE, "later", (("grpc-retry-pushback-ms", b"2500"),)) if isinstance(event, Missed) else None
    )
    rest.instance.plane.set_vmodels([("away", Naming("gone"))])
    status, body, answer = await rest.ask("POST", "/v2/models/away/infer", json={"inputs": [X]})
    assert (status, body, answer.headers["Retry-After"]) == (503, {"error": "later"}, "3")


async def test_a_call_is_held_until_its_time_is_over(rest: Rest) -> None:
    rest.instance.brain.decide = lambda _: None
    rest.instance.plane.set_vmodels([("v", Naming("cold"))])
    for headers, parameters in (({"X-Request-Timeout": "0.05"}, {}), ({}, {"timeout": 50_000})):
        status, _, _ = await rest.ask(
            "POST", "/v2/models/v/infer", json={"inputs": [X], "parameters": parameters}, headers=headers
        )
        assert status == 504
    await until(lambda: not rest.instance.plane.busy())


async def test_a_client_that_goes_ends_its_call(rest: Rest) -> None:
    rest.instance.brain.decide = lambda _: None
    rest.instance.plane.set_vmodels([("v", Naming("cold"))])
    asked = asyncio.ensure_future(rest.infer("v"))
    await rest.instance.brain.next(Missed)
    asked.cancel()
    await until(lambda: not rest.instance.plane.busy())


async def test_server_and_model_tell_what_they_are(rest: Rest, runtime: Runtime) -> None:
    assert (await rest.ask("GET", "/v2/health/live"))[:2] == (200, {"live": True})

    async def describe(requests: AsyncIterator[bytes], _: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for message in requests:
            request = pb.ModelMetadataRequest.FromString(message)
            answer = pb.ModelMetadataResponse(name=request.name, platform="p")
            answer.inputs.add(name="x", datatype="FP32", shape=[-1, 3])
            yield answer.SerializeToString()

    runtime.script["ModelMetadata"] = describe
    expected = {
        "name": "m",
        "platform": "p",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [],
    }
    assert (await rest.ask("GET", "/v2/models/m"))[:2] == (200, expected)
    status, body, answer = await rest.ask("HEAD", "/v2/models/m")
    assert (status, body, int(answer.headers["Content-Length"])) == (
        200,
        b"",
        len(json.dumps(expected, separators=(",", ":"))),
    )


async def test_a_model_is_ready_when_it_is_loaded_and_asking_loads_nothing(rest: Rest, runtime: Runtime) -> None:
    info = mesh_pb.ModelStatusInfo
    for status, expected, text in (
        (info.LOADED, 200, ""),
        (info.LOADING, 503, "is being loaded"),
        (info.NOT_LOADED, 503, "is not loaded"),
        (info.LOADING_FAILED, 503, "cannot be loaded: no such file"),
        (info.NOT_FOUND, 404, "there is no model"),
        (info.UNKNOWN, 503, "cannot be found out now"),
    ):
        rest.models["a/b"] = info(status=status, errors=["no such file"])
        got, body, answer = await rest.ask("GET", URL("/v2/models/a%2Fb/ready", encoded=True))
        assert got == expected
        assert ("Retry-After" in answer.headers) == (got == 503)
        assert body == {"name": "a/b", "ready": True} if got == 200 else text in body["error"]
    vmodel = mesh_pb.VModelStatusInfo(status=mesh_pb.VModelStatusInfo.DEFINED)
    vmodel.activeModelStatus.status = info.LOADED
    rest.vmodels["v"] = vmodel
    assert (await rest.ask("GET", "/v2/models/v/ready"))[:2] == (200, {"name": "v", "ready": True})
    assert runtime.calls == []


async def test_what_is_not_there_and_what_is_not_allowed(rest: Rest) -> None:
    status, body, _ = await rest.ask("GET", "/nothing")
    assert (status, body) == (404, {"error": "there is nothing at /nothing"})
    status, body, answer = await rest.ask("GET", "/v2/models/m/infer")
    assert (status, answer.headers["Allow"], set(body)) == (405, "POST", {"error"})
    for path in ("/v2/models/a/../m/infer", "/v2/models/%zz/infer"):
        status, body, _ = await rest.ask("POST", URL(path, encoded=True), json={})
        assert status in {400, 404}
        assert set(body) == {"error"}


async def test_gzip_both_ways(rest: Rest) -> None:
    tensor = {"name": "x", "datatype": "INT32", "shape": [5000], "data": list(range(5000))}
    body = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip", "Content-Type": "application/json"}
    status, answered, answer = await rest.ask("POST", "/v2/models/m/infer", data=gzip.compress(body), headers=headers)
    assert (status, answer.headers["Content-Encoding"]) == (200, "gzip")
    assert json.loads(gzip.decompress(answered))["outputs"][0]["data"] == list(range(5000))
    for encoding, data, expected in (
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b" " * (2 << 20)), 413),
        ("br", b"", 415),
    ):
        headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
        status, _, _ = await rest.ask("POST", "/v2/models/m/infer", data=data, headers=headers)
        assert status == expected, encoding


async def test_bodies_are_bounded_as_messages_are(rest: Rest) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b" " * (1 << 16)

    headers = {"Content-Type": "application/json"}
    for data in (io.BytesIO(b" " * ((1 << 20) + 1)), chunks()):
        status, body, _ = await rest.ask("POST", "/v2/models/m/infer", data=data, headers=headers)
        assert status == 413
        assert "1048576" in body["error"]
    # Numbers that are small as text and large as tensors.
    tensor = {"name": "x", "datatype": "FP64", "shape": [200_000], "data": [0] * 200_000}
    assert (await rest.infer("m", tensor))[0] == 413


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        ("POST /v2/models/m/infer HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}", b"HTTP/1.0 200"),
        (
            "POST http://other/v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}",
            b"HTTP/1.1 200",
        ),
        (
            "POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n{body}",
            b"HTTP/1.1 100 Continue",
        ),
        (
            "GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"HTTP/1.1 200",
        ),
        (
            "POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 400",
        ),
        ("POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"HTTP/1.1 400"),
        ("POST /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"HTTP/1.1 400"),
        ("POST /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 400"),
        ("GET /v2 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n smuggled: 2\r\n\r\n", b"HTTP/1.1 400"),
        ("GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX-A: {long}\r\n\r\n", b"HTTP/1.1 431"),
        ("nonsense\r\n\r\n", b"HTTP/1.1 400"),
    ],
)
async def test_requests_that_no_library_writes(rest: Rest, request_text: str, expected: bytes) -> None:
    body = json.dumps({"inputs": [X]})
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.instance.plane.rest_port)
    text = request_text.replace("{length}", str(len(body))).replace("{body}", body).replace("{long}", "x" * 100_000)
    writer.write(text.encode())
    async with asyncio.timeout(WAIT):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(expected)
        length = re.search(rb"content-length: (\d+)\r\n", head)
        answer = json.loads(await reader.readexactly(int(length[1]))) if length is not None else None
    assert (answer is not None and "error" in answer) == (expected[9:10] == b"4"), "every refusal says why"
    writer.close()


async def test_headers_of_http2_that_are_too_large_are_refused_in_words(rest: Rest) -> None:
    headers = [part for number in range(2000) for part in ("-H", f"x-{number}: y")]  # each counts 32 bytes more
    command = ["curl", "-s", "--http2-prior-knowledge", "-w", "%{http_code}", *headers]
    curl = await asyncio.create_subprocess_exec(
        *command, f"http://127.0.0.1:{rest.instance.plane.rest_port}/v2/health/live", stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(WAIT):
        out, _ = await curl.communicate()
    assert out.decode().endswith("431")
    assert "too large" in json.loads(out[:-3])["error"]


async def test_requests_of_one_connection_are_answered_in_order(rest: Rest) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.instance.plane.rest_port)
    for number in range(10):
        body = json.dumps({"id": str(number), "inputs": [X]})
        writer.write(
            f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
    seen = b""
    async with asyncio.timeout(WAIT):
        while seen.count(b'"outputs"') < 10:
            seen += await reader.read(1 << 16)
    assert [seen.index(f'"id":"{number}"'.encode()) for number in range(10)] == sorted(
        seen.index(f'"id":"{number}"'.encode()) for number in range(10)
    )
    writer.close()


async def test_connections_are_counted_with_those_of_grpc(make: Make, runtime: Runtime) -> None:
    runtime.script["ModelInfer"] = mirror
    one = make(rest="127.0.0.1:0", connections_max=2)
    client = Rest(one)
    connections = [await asyncio.open_connection("127.0.0.1", one.plane.rest_port) for _ in range(2)]
    reader, writer = await asyncio.open_connection("127.0.0.1", one.plane.rest_port)
    async with asyncio.timeout(WAIT):
        assert await reader.read() == b"", "it is closed at once"
    for _, other in [*connections, (reader, writer)]:
        other.close()

    async def live() -> bool:
        try:
            return (await client.ask("GET", "/v2/health/live"))[0] == 200
        except aiohttp.ClientError:
            return False

    async with asyncio.timeout(WAIT):
        while not await live():
            await asyncio.sleep(0.01)
    await client.session.close()


async def test_tls_is_that_of_the_grpc_port_and_follows_its_certificates(
    make: Make, runtime: Runtime, tmp_path: Path
) -> None:
    runtime.script["ModelInfer"] = mirror
    first, second = Authority(), Authority()

    def listener(authority: Authority) -> ListenerTls:
        issued = authority.issue("localhost")
        return ListenerTls(issued.certificate, issued.key, authority.pem)

    one = make(rest="127.0.0.1:0", serving_tls=listener(first))
    one.local()
    url = f"https://localhost:{one.plane.rest_port}/v2/models/m/infer"
    body = json.dumps({"inputs": [X]})

    async def called(authority: Authority, *options: str) -> str:
        """The HTTP version and status that curl tells; nothing if it does not trust the server."""
        file = tmp_path / "authority.pem"
        file.write_bytes(authority.pem)
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--cacert", str(file)]
        process = await asyncio.create_subprocess_exec(
            *command, *options, "-H", "mm-model-id: m", "-d", body, url, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(WAIT):
            told, _ = await process.communicate()
        return told.decode() if process.returncode == 0 else ""

    assert await called(first) == "2 200"
    assert await called(first, "--http1.1") == "1.1 200"
    assert await called(second) == ""
    one.plane.set_tls(listener(second), None)
    assert await called(second) == "2 200"
    assert await called(first) == ""
    plain = Rest(one)
    with pytest.raises(aiohttp.ClientError):
        await plain.ask("GET", "/v2/health/live")
    await plain.session.close()


async def test_draining_ends_connections_when_their_requests_have_ended(rest: Rest) -> None:
    rest.instance.brain.decide = lambda _: None
    rest.instance.plane.set_vmodels([("v", Naming("m"))])
    reader, writer = await asyncio.open_connection("127.0.0.1", rest.instance.plane.rest_port)
    writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(WAIT):
        await reader.readuntil(b"true}")
        rest.instance.plane.drain()
        assert await reader.read() == b""
    writer.close()
    # The listener hears of it by itself, perhaps after the connections.
    async with asyncio.timeout(WAIT):
        while await _is_answered(rest):
            pass


async def _is_answered(rest: Rest) -> bool:
    try:
        await rest.ask("GET", "/v2/health/live")
    except aiohttp.ClientError:
        return False
    return True


async def test_pages_of_strange_origins_cannot_call_and_named_ones_are_told_that_they_can(
    make: Make, runtime: Runtime
) -> None:
    runtime.script["ModelInfer"] = mirror
    one = make(rest="127.0.0.1:0", rest_origins=["https://app.example.org"])
    one.local()
    rest = Rest(one)

    async def asked(method: str, origin: str, **headers: str) -> tuple[int, aiohttp.ClientResponse]:
        status, _, answer = await rest.ask(
            method, "/v2/models/m/infer", json={"inputs": [X]}, headers={"Origin": origin, **headers}
        )
        return status, answer

    own = f"http://127.0.0.1:{one.plane.rest_port}"
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert (await asked("POST", own))[0] == 200
    for method, headers in (("POST", {}), ("OPTIONS", preflight)):
        assert (await asked(method, "http://evil.org", **headers))[0] == 403
    assert [method for method, _ in runtime.calls] == ["inference.GRPCInferenceService/ModelInfer"]
    status, answer = await asked("POST", "https://app.example.org")
    assert (status, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://app.example.org")
    assert "mm-fallback" in answer.headers["Access-Control-Expose-Headers"]
    status, answer = await asked("OPTIONS", "https://app.example.org", **preflight)
    assert (status, answer.headers["Access-Control-Allow-Headers"]) == (204, "content-type")
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    await rest.session.close()


async def test_connections_have_the_age_of_those_of_grpc(make: Make, runtime: Runtime) -> None:
    runtime.script["ModelInfer"] = mirror
    one = make(rest="127.0.0.1:0", max_connection_age_ms=100)
    one.local()
    reader, writer = await asyncio.open_connection("127.0.0.1", one.plane.rest_port)
    writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(WAIT):
        assert await reader.readuntil(b"true}")
        assert await reader.read() == b"", "it does nothing, so it goes"
    writer.close()
    rest = Rest(one)
    for _ in range(20):
        try:
            answered = await rest.infer()
        except aiohttp.ClientConnectionError:
            answered = await rest.infer()  # the request met the end of its connection; the next one is new
        assert answered[0] == 200
        await asyncio.sleep(0.02)  # longer in all than a connection lives
    await rest.session.close()
