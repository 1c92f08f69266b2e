"""The demo of serving: one `models.yaml`, a bucket, two MLServers and the built-in runtime.

Trains models of four formats, puts them into a local S3, and runs `modelmesh up -f models.yaml`. Calls the models by name
through randomly chosen instances, more of them than there is room for. Meanwhile it changes one model's manifest in place,
which moves its vmodel, and replaces the file of another in the bucket. Every answer is compared with the library's own.
Ends with one line of figures; exit status 0 only if nothing was wrong, something was evicted, and the store sent each
content once.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
import numpy as np
import obstore
from obstore.store import S3Store
from train import VERSIONS

from modelmesh._proto import admin_pb2
from modelmesh._proto import model_mesh_pb2 as mesh_pb2
from modelmesh._proto import open_inference_pb2 as oip
from modelmesh.declared import read_documents
from modelmesh.instance.local_cluster import free_port
from modelmesh.instance.processes import Child, start_child

HERE = Path(__file__).parent
MLSERVER = HERE.parents[1] / ".tools" / "servers" / "mlserver" / "bin"
BUCKET = "models"
CAPACITY = "64MiB"
INSTANCES = 3
CALLS = 400
"""Before, and after, the changes."""
AT_A_TIME = 6
SEED = 2
ZIPF = 1.1
PATIENCE_S = 120.0
INPUTS = {"onnx": ("X", "FP32", "<f4"), "xgboost": ("x", "FP32", "<f4")}
"""Name and type of the input; others take FP64."""
TYPES = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8", "INT32": "<i4"}


@dataclass(frozen=True)
class Model:
    """One InferenceService of the manifest."""

    name: str
    format: str
    path: str


@dataclass
class Figures:
    """What is counted while it runs."""

    done: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    took_ms: list[float] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)


def models_of(manifest: str) -> list[Model]:
    """The InferenceServices of the manifest."""
    documents, problems = read_documents("models.yaml", manifest)
    assert not problems, problems
    found = []
    for body in (document.body for document in documents if document.body["kind"] == "InferenceService"):
        model = body["spec"]["predictor"]["model"]
        found.append(Model(body["metadata"]["name"], model["modelFormat"]["name"], model["storage"]["path"]))
    return found


class Store:
    """The bucket."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._store = S3Store(
            BUCKET,
            endpoint=self.url,
            access_key_id="demo",
            secret_access_key="demo-secret",
            region="us-east-1",
            client_options={"allow_http": True},
        )
        self.content_bytes = 0

    @property
    def configuration(self) -> str:
        """What `--storage-config` has under the key `bucket`."""
        return json.dumps(
            {
                "type": "s3",
                "endpoint_url": self.url,
                "region": "us-east-1",
                "default_bucket": BUCKET,
                "access_key_id": "demo",
                "secret_access_key": "demo-secret",
            }
        )

    def make_bucket(self) -> None:
        """Make the bucket."""
        signed = "AWS4-HMAC-SHA256 Credential=demo/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        request = urllib.request.Request(f"{self.url}/{BUCKET}", method="PUT", headers={"Authorization": signed})
        urllib.request.urlopen(request, timeout=5).close()

    async def put(self, path: str, file: Path) -> None:
        """Put a file; its bytes are expected to be sent once."""
        content = await asyncio.to_thread(file.read_bytes)
        await obstore.put_async(self._store, path, content)
        self.content_bytes += len(content)

    def sent(self) -> dict[str, int]:
        """Bytes of each object that the server has sent."""
        with urllib.request.urlopen(f"{self.url}/-/sent", timeout=5) as answer:
            found: dict[str, int] = json.load(answer)
        return found


class Caller:
    """Calls models by name through every instance, and counts the events of each."""

    def __init__(self, folder: Path, models: list[Model], first_port: int) -> None:
        self.figures = Figures()
        self._models = models
        self._rows: dict[str, Any] = {}
        self.answers: dict[str, list[Any]] = {}
        for model in models:
            known = np.load(folder / f"{model.name}.npz")
            self._rows[model.name] = known["x"]
            self.answers[model.name] = [known["y"]]
        ports = range(first_port, first_port + INSTANCES)
        self.channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]

    async def call(self, method: str, request: Any, answer: Any, *, via: int = 0, model: str = "") -> Any:
        """One unary call; by the name of a model if there is one."""
        made = self.channels[via].unary_unary(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return await made(request, timeout=60, metadata=(("mm-vmodel-id", model),) if model else ())

    async def follow(self, number: int) -> None:
        """Count what happens at one instance."""
        watch = self.channels[number].unary_stream(
            "/modelmesh.v1.Admin/WatchEvents",
            request_serializer=admin_pb2.WatchEventsRequest.SerializeToString,
            response_deserializer=admin_pb2.Event.FromString,
        )
        async for event in watch(admin_pb2.WatchEventsRequest()):
            self.figures.events[event.kind] += 1

    async def once_each(self) -> None:
        """Call every model through every instance at once: cold models have several callers."""
        await asyncio.gather(*(self.infer(model, via, 0) for model in self._models for via in range(INSTANCES)))

    async def many(self, count: int) -> None:
        """Make `count` calls, `AT_A_TIME` at a time; more popular models more often."""
        rng = Random(SEED + count)
        popular = list(self._models)
        rng.shuffle(popular)
        weights = [1 / (rank + 1) ** ZIPF for rank in range(len(popular))]
        plan = iter([(rng.choices(popular, weights)[0], rng.randrange(INSTANCES)) for _ in range(count)])

        async def worker() -> None:
            for model, via in plan:
                await self.infer(model, via, rng.randrange(len(self._rows[model.name])))

        await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))

    async def infer(self, model: Model, via: int, row: int) -> None:
        """Call a model with one row, and judge the answer."""
        # Whichever answer was right when the call began, or became right meanwhile.
        before = [answers[row] for answers in self.answers[model.name]]
        began = time.perf_counter()
        try:
            found = await self._answer(model, via, row)
        except grpc.aio.AioRpcError as error:
            self.figures.errors[f"{model.name}: {error.code().name}: {error.details()}"] += 1
            return
        finally:
            self.figures.done += 1
        self.figures.took_ms.append((time.perf_counter() - began) * 1000)
        right = [*before, *(answers[row] for answers in self.answers[model.name])]
        if not any(np.isclose(found, one, rtol=1e-5) for one in right):
            self.figures.wrong += 1
            print(f"WRONG {model.name} row {row}: {found}, expected {right}", flush=True)

    async def _answer(self, model: Model, via: int, row: int) -> Any:
        """The first number of the first output."""
        name, datatype, kind = INPUTS.get(model.format, ("x", "FP64", "<f8"))
        rows = self._rows[model.name][row : row + 1]
        request = oip.ModelInferRequest(model_name=model.name)
        request.inputs.add(name=name, datatype=datatype, shape=rows.shape)
        request.raw_input_contents.append(np.ascontiguousarray(rows, kind).tobytes())
        method = "inference.GRPCInferenceService/ModelInfer"
        answer = await self.call(method, request, oip.ModelInferResponse, via=via, model=model.name)
        return np.frombuffer(answer.raw_output_contents[0], TYPES[answer.outputs[0].datatype]).ravel()[0]

    async def answers_as_the_newest(self, model: Model) -> bool:
        """Whether a model answers every row as the newest of its contents does."""
        found = [await self._answer(model, 0, row) for row in range(len(self._rows[model.name]))]
        return bool(np.allclose(found, self.answers[model.name][-1], rtol=1e-5))

    async def active(self, name: str) -> mesh_pb2.VModelStatusInfo:
        """What stands behind a vmodel."""
        request = mesh_pb2.GetVModelStatusRequest(vModelId=name)
        answer: mesh_pb2.VModelStatusInfo = await self.call(
            "mmesh.ModelMesh/getVModelStatus", request, mesh_pb2.VModelStatusInfo
        )
        return answer


async def train_all(folder: Path, models: list[Model]) -> None:
    """Train every model with the Python of who serves it."""
    names = [model.name for model in models] + list(VERSIONS)
    for model_format in sorted({model.format for model in models}):
        python = sys.executable if model_format == "onnx" else str(MLSERVER / "python")
        process = await asyncio.create_subprocess_exec(python, HERE / "train.py", folder, model_format, *names)
        if await process.wait() != 0:
            raise SystemExit(f"the models of {model_format} cannot be trained")


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition over other processes holds."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():  # noqa: ASYNC110 - another process cannot set our event
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise SystemExit(f"{what}: not within {PATIENCE_S:.0f} s") from None


@contextlib.asynccontextmanager
async def serving(folder: Path, store: Store, port: int) -> AsyncIterator[None]:
    """`modelmesh up -f` over the folder, until the context ends."""
    (folder / "storage").mkdir()
    (folder / "storage" / "bucket").write_text(store.configuration)
    environment = {**os.environ, "PATH": f"{MLSERVER}:{os.environ['PATH']}", "MODELMESH_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "modelmesh.cli", "up", "-f", folder / "manifests"]
    command += ["--storage-config", folder / "storage", "--capacity", CAPACITY]
    command += ["--default-size", "4MiB", "--port", str(port)]
    up = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=environment)
    assert up.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for line in up.stderr:
                print(line.decode().rstrip(), flush=True)
                if line.startswith(b"running"):
                    break
            else:
                raise SystemExit("modelmesh up has ended")
        passing = asyncio.create_task(_pass_on(up.stderr))
        yield
        passing.cancel()
    finally:
        if up.returncode is None:
            up.send_signal(signal.SIGINT)
        await up.communicate()


async def _pass_on(lines: asyncio.StreamReader) -> None:
    async for line in lines:
        print(line.decode().rstrip(), flush=True)


async def play(folder: Path, calls: int) -> dict[str, object]:
    """Train, serve, change, stop; the figures."""
    began = time.monotonic()
    manifest = (HERE / "models.yaml").read_text()
    models = models_of(manifest)
    print(f"training {len(models)} models …", flush=True)
    await train_all(folder, models)
    port = free_port()
    bucket: Child = await start_child(
        "bucket", [sys.executable, str(HERE / "bucket.py"), str(port)], log=folder / "bucket.log", environment={}
    )
    try:
        store = Store(port)
        await until("the bucket", lambda: _made(store, bucket))
        for model in models:
            await store.put(model.path, folder / model.path)
        (folder / "manifests").mkdir()
        (folder / "manifests" / "models.yaml").write_text(manifest)
        first_port = free_ports()
        async with serving(folder, store, first_port):
            caller = Caller(folder, models, first_port)
            watching = [asyncio.create_task(caller.follow(number)) for number in range(INSTANCES)]
            print("calling every model through every instance, at once", flush=True)
            await caller.once_each()
            await caller.many(calls)
            by_name = {model.name: model for model in models}
            await asyncio.gather(
                move(folder, manifest, store, caller, by_name["network-1"]),
                replace(folder, store, caller, by_name["boosted-1"]),
                caller.many(calls),
            )
            await caller.many(calls)
            await asyncio.sleep(0.2)  # let the last events arrive
            for task in watching:
                task.cancel()
            for channel in caller.channels:
                await channel.close(None)
        sent = store.sent()
    finally:
        await bucket.stop()
    figures = caller.figures
    for error, times in figures.errors.most_common(5):
        print(f"error x{times}: {error}")
    return {
        "models": len(models),
        "formats": len({model.format for model in models}),
        "instances": INSTANCES,
        "requests": figures.done,
        "wrong": figures.wrong,
        "errors": sum(figures.errors.values()),
        "loads": figures.events["loaded"],
        "evictions": figures.events["evicted"],
        "bytes_fetched": sum(sent.values()),
        "bytes_of_contents": store.content_bytes,
        "p50_ms": round(statistics.median(figures.took_ms or [0.0]), 2),
        "seconds": round(time.monotonic() - began, 1),
    }


async def _made(store: Store, bucket: Child) -> bool:
    bucket.check()
    try:
        await asyncio.to_thread(store.make_bucket)
    except OSError:
        return False
    return True


def free_ports() -> int:
    """The first of as many free ports as there are instances."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + INSTANCES):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first


async def move(folder: Path, manifest: str, store: Store, caller: Caller, model: Model) -> None:
    """Change the manifest in place: another path for the same name. The vmodel moves while it is called."""
    before = (await caller.active(model.name)).activeModelId
    path = model.path.replace(model.name, f"{model.name}b")
    await store.put(path, folder / path)
    caller.answers[model.name].append(np.load(folder / f"{model.name}b.npz")["y"])
    print(f"{model.name}: its manifest says {path} now", flush=True)
    changed = folder / "models.yaml.new"
    changed.write_text(manifest.replace(model.path, path))
    changed.replace(folder / "manifests" / "models.yaml")

    async def moved() -> bool:
        status = await caller.active(model.name)
        done = mesh_pb2.VModelStatusInfo.DEFINED
        return status.activeModelId not in {"", before} and status.status == done

    await until(f"{model.name} moves to {path}", moved)
    del caller.answers[model.name][0]
    print(f"{model.name} has moved", flush=True)


async def replace(folder: Path, store: Store, caller: Caller, model: Model) -> None:
    """Replace a file in the bucket, and unload its model: the next call loads what is there now."""
    path = model.path.replace(model.name, f"{model.name}b")
    caller.answers[model.name].append(np.load(folder / f"{model.name}b.npz")["y"])
    await store.put(model.path, folder / path)
    active = (await caller.active(model.name)).activeModelId
    request = admin_pb2.UnloadModelRequest(model_id=active)
    await caller.call("modelmesh.v1.Admin/UnloadModel", request, admin_pb2.UnloadModelResponse)

    await until(f"{model.name} answers as the new file does", lambda: caller.answers_as_the_newest(model))
    del caller.answers[model.name][0]
    print(f"{model.name} was replaced in the bucket", flush=True)


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS, help="how many calls at a time of the story")
    given = parser.parse_args()
    if not (MLSERVER / "mlserver").exists():
        print("MLServer is not installed here; run: make demo-serving")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="modelmesh-serving-"))
    try:
        result = asyncio.run(play(folder, given.calls))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"serving: {json.dumps(result)}")
    once = result["bytes_fetched"] == result["bytes_of_contents"]
    good = once and result["wrong"] == 0 and result["errors"] == 0 and result["evictions"] != 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
