"""REST requests that are refused, counted; and large bodies, which are worked at on other threads."""

import gzip
import io
import json
from collections.abc import Callable

import numpy as np
from rest_client import Rest, X, mirror
from scripted import Instance, Runtime

Make = Callable[..., Instance]


async def test_answers_that_are_no_success_are_counted_by_status(make: Make) -> None:
    one = make(rest="127.0.0.1:0")
    rest = Rest(one)
    try:
        for method, path, body, status in [
            ("GET", "/nothing", None, 404),
            ("GET", "/v2/models/m/infer", None, 405),
            ("POST", "/v2/models/m/infer", b"{", 400),
            ("POST", "/v2/models/m/infer", b"{", 400),
            ("POST", "/v2/models/m/infer", json.dumps({"inputs": [X]}).encode(), 404),
        ]:
            headers = {"Content-Type": "application/json"}
            assert (await rest.ask(method, path, data=body, headers=headers))[0] == status
        assert (await rest.ask("GET", "/v2/health/live"))[0] == 200
    finally:
        await rest.session.close()
    text = one.plane.metrics().decode()
    for status, count in [(400, 2), (404, 2), (405, 1), (500, 0)]:
        assert f'modelmesh_rest_faults_total{{status="{status}"}} {count}\n' in text


async def test_a_large_body_is_answered_as_a_small_one(make: Make, runtime: Runtime) -> None:
    runtime.script["ModelInfer"] = mirror
    one = make(rest="127.0.0.1:0")
    one.local()
    rest = Rest(one)
    values = np.arange(200_000, dtype=np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [200_000], "data": values.tolist()}
    headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip"}
    try:
        request = json.dumps({"inputs": [tensor]}).encode()
        assert len(request) > 1 << 20
        status, body, answer = await rest.ask("POST", "/v2/models/m/infer", data=io.BytesIO(request), headers=headers)
        assert (status, answer.headers["Content-Encoding"]) == (200, "gzip")
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
        assert told["outputs"][0]["data"] == values.tolist()
        broken = request.replace(b"199999.0", b"199999.x")
        status, body, _ = await rest.ask("POST", "/v2/models/m/infer", data=io.BytesIO(broken), headers=headers)
        assert status == 400
    finally:
        await rest.session.close()
