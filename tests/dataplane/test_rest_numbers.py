"""Numbers by REST, compared with numpy: what JSON becomes on its way to the runtime, and what comes back."""

import json
import random
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from rest_client import Rest, noting
from scripted import Instance, Runtime

from modelmesh._proto import open_inference_pb2 as pb

Make = Callable[..., Instance]
COUNT = 2_000

FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
INTEGERS = {
    f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower()).type for sign in ("", "U") for bits in (8, 16, 32, 64)
}


@pytest.fixture
async def seen(make: Make, runtime: Runtime) -> AsyncIterator[tuple[Rest, list[pb.ModelInferRequest]]]:
    """A client, and the requests that reach the runtime; their inputs come back as outputs."""
    requests: list[pb.ModelInferRequest] = []
    runtime.script["ModelInfer"] = noting(requests)
    one = make(rest="127.0.0.1:0")
    one.local()
    client = Rest(one)
    yield client, requests
    await client.session.close()


def shaped(count: int, rng: random.Random) -> list[int]:
    """Dimensions of so many elements."""
    factors = [factor for factor in (2, 4, 5, 8, 10, 20) if count % factor == 0]
    first = rng.choice(factors)
    return [first, count // first] if rng.random() < 0.5 else [1, first, count // first]


async def sent(rest: Rest, datatype: str, texts: list[str], shape: list[int], rng: random.Random) -> list[float]:
    """Sends numbers as they are written, nested or flat; returns what comes back."""
    flat = "[" + ",".join(texts) + "]"
    if rng.random() < 0.5:
        whole = np.array(texts, dtype=object).reshape(shape).tolist()
        flat = json.dumps(whole).replace('"', "")
    keys = [f'"datatype":"{datatype}"', f'"shape":{json.dumps(shape)}', '"name":"x"', f'"data":{flat}']
    rng.shuffle(keys)
    body = '{"inputs":[{' + ",".join(keys) + "}]}"
    status, answer, _ = await rest.ask(
        "POST", "/v2/models/m/infer", data=body.encode(), headers={"Content-Type": "application/json"}
    )
    assert status == 200, answer
    assert answer["outputs"][0]["shape"] == shape
    return answer["outputs"][0]["data"]


@pytest.mark.parametrize("datatype", list(FLOATS))
async def test_floats(seen: tuple[Rest, list[pb.ModelInferRequest]], datatype: str) -> None:
    rest, requests = seen
    kind = FLOATS[datatype]
    info = np.finfo(kind)
    rng = random.Random(f"numbers {datatype}")
    edges = ["0", "-0.0", "0.1", "1e-400", str(info.max), str(info.min), str(info.tiny), str(info.smallest_subnormal)]
    low, high = np.log10(float(info.tiny)), np.log10(float(info.max))
    texts = [*edges]
    while len(texts) < COUNT:
        value = rng.choice((-1, 1)) * 10 ** rng.uniform(low - 2, high - 0.01)
        texts.append(rng.choice((f"{value:.17g}", f"{value:.5g}", f"{value:.3e}".upper(), str(kind(value)))))
    back = await sent(rest, datatype, texts, shaped(COUNT, rng), rng)
    expected = np.array([float(text) for text in texts]).astype(kind)
    assert requests[-1].raw_input_contents[0] == expected.tobytes()
    assert np.array(back).astype(kind).tobytes() == expected.tobytes()


@pytest.mark.parametrize("datatype", list(INTEGERS))
async def test_integers(seen: tuple[Rest, list[pb.ModelInferRequest]], datatype: str) -> None:
    rest, requests = seen
    info = np.iinfo(INTEGERS[datatype])
    rng = random.Random(f"numbers {datatype}")
    values = [info.min, info.max, 0, 1, *(rng.randint(info.min, info.max) for _ in range(COUNT - 4))]
    back = await sent(rest, datatype, [str(value) for value in values], shaped(COUNT, rng), rng)
    assert requests[-1].raw_input_contents[0] == np.array(values, dtype=info.dtype).tobytes()
    assert back == values


async def test_strings(seen: tuple[Rest, list[pb.ModelInferRequest]]) -> None:
    rest, _ = seen
    rng = random.Random("strings")
    alphabet = 'a"\\/\b\n\t\x00\x1f\x7fé中\u2028\U0001f600'
    values = ["".join(rng.choices(alphabet, k=rng.randint(0, 20))) for _ in range(200)]
    for ensure_ascii in (True, False):
        tensor = {"name": "x", "datatype": "BYTES", "shape": [200], "data": values}
        status, answer, _ = await rest.ask(
            "POST",
            "/v2/models/m/infer",
            data=json.dumps({"inputs": [tensor]}, ensure_ascii=ensure_ascii).encode(),
            headers={"Content-Type": "application/json"},
        )
        assert status == 200, answer
        assert answer["outputs"][0]["data"] == values
