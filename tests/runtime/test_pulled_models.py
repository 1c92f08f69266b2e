"""The built-in runtime with files from elsewhere."""

import asyncio
import json
import os
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from modelmesh.adapters.runtime.grpc_runtime import GrpcRuntime
from modelmesh.runtime import LoadError, ModelSource, serve
from modelmesh.runtime.places import TrustedPlaces
from modelmesh.runtime.pulled import PullingRuntime
from modelmesh.storage import DiskCache, StorageError, from_model_key
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status

MIB = 1024 * 1024


@dataclass
class Store:
    """Files over HTTP, counted."""

    files: dict[str, bytes] = field(default_factory=dict)
    bodies: list[str] = field(default_factory=list)
    hold: asyncio.Event | None = None
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        content = self.files.get(request.path)
        if content is None:
            return web.Response(status=404)
        headers = {"ETag": f'"{hash(content)}"'}
        if request.headers.get("Range") == "bytes=0-0":
            return web.Response(
                status=206, body=content[:1], headers={**headers, "Content-Range": f"bytes 0-0/{len(content)}"}
            )
        self.bodies.append(request.path)
        if self.hold is not None:
            await self.hold.wait()
        return web.Response(body=content, headers=headers)


@pytest.fixture
async def store(trained: Path) -> AsyncIterator[Store]:
    made = Store({f"/{path.name}": path.read_bytes() for path in trained.iterdir() if path.is_file()})
    runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr,attr-defined]
    yield made
    await runner.cleanup()


@asynccontextmanager
async def runtime(tmp_path: Path, **more: object) -> AsyncIterator[PullingRuntime]:
    made = PullingRuntime(cache=DiskCache(tmp_path / "cache", 100 * MIB), **more)  # type: ignore[arg-type]
    yield made
    await made._puller.close()


async def refused(awaitable) -> LoadError:
    with pytest.raises(LoadError) as error:
        await awaitable
    return error.value


async def test_a_model_from_a_url_answers_as_the_file_does(store: Store, tmp_path: Path, trained: Path) -> None:
    async with runtime(tmp_path, models=trained) as pulling:
        there = await pulling.load(ModelSource("a", "onnx", f"{store.url}/iris.onnx"))
        here = await pulling.load(ModelSource("b", "onnx", "iris.onnx"))
        assert there.signature == here.signature
        name = here.signature.inputs[0].name
        rows = np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)
        for output, value in pulling.infer(here, {name: rows}, {}).items():
            np.testing.assert_array_equal(pulling.infer(there, {name: rows}, {})[output], value)
        assert pulling.size(there) == pulling.size(here)
        assert pulling._puller.cache.usage().held_bytes > 0
        pulling.unload(there)
        pulling.unload(here)
        assert pulling._puller.cache.usage().held_bytes == 0
        pulling.unload(await pulling.load(ModelSource("c", "", f"{store.url}/iris.onnx")))
    assert store.bodies == ["/iris.onnx"]


async def test_files_that_can_run_code_only_from_trusted_places(store: Store, tmp_path: Path) -> None:
    mark = tmp_path / "was here"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    store.files["/evil/m.joblib"] = store.files["/evil/m.bin"] = pickle.dumps(Payload())
    for trusted in ((), (f"{store.url}/good/*",), ("s3://*",)):
        async with runtime(tmp_path, trusted=trusted) as pulling:
            for kind, name in (
                ("sklearn", "m.joblib"),
                ("", "m.joblib"),
                ("mt:sklearn:1", "m.bin"),
                ("auto", "m.joblib"),
            ):
                error = await refused(pulling.load(ModelSource("m", kind, f"{store.url}/evil/{name}")))
                assert error.status is Status.PERMISSION_DENIED
                assert f"--trust '{store.url}/evil/*'" in str(error)
    assert store.bodies == [], "nothing is fetched for what is not loaded"
    assert not mark.exists()
    async with runtime(tmp_path, trusted=(f"{store.url}/good/*",)) as pulling:
        store.files["/good/iris.joblib"] = store.files["/iris.joblib"]
        loaded = await pulling.load(ModelSource("m", "sklearn", f"{store.url}/good/iris.joblib"))
        assert loaded.size_bytes > 0


async def test_how_far_a_load_is_can_be_asked_while_it_runs(store: Store, tmp_path: Path) -> None:
    store.hold = asyncio.Event()
    async with runtime(tmp_path) as pulling:
        server = await serve(pulling, listen="127.0.0.1:0")
        mesh = GrpcRuntime(server.address)
        try:
            assert await mesh.progress(ModelId("m")) is None
            load = asyncio.create_task(server.models.load(ModelSource("m", "onnx", f"{store.url}/iris.onnx")))
            async with asyncio.timeout(10):
                while not store.bodies:
                    await asyncio.sleep(0.01)
            told = await mesh.progress(ModelId("m"))
            assert told is not None
            assert told.stage.value in {"listing", "fetching"}
            assert await mesh.progress(ModelId("other")) is None
            store.hold.set()
            await load
            assert await mesh.progress(ModelId("m")) is None, "it is loaded"
        finally:
            await mesh.close()
            await server.stop(0)


async def test_a_folder_shows_only_when_it_is_here_what_is_in_it(store: Store, tmp_path: Path) -> None:
    """The type is not said, and the name says nothing: it is refused after the pull, and before the load."""
    import io
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        info = tarfile.TarInfo("m.joblib")
        info.size = len(store.files["/iris.joblib"])
        made.addfile(info, io.BytesIO(store.files["/iris.joblib"]))
    store.files["/m.tar.gz"] = out.getvalue()
    async with runtime(tmp_path) as pulling:
        error = await refused(pulling.load(ModelSource("m", "", f"{store.url}/m.tar.gz")))
        assert error.status is Status.PERMISSION_DENIED
        assert pulling._puller.cache.usage().held_bytes == 0
    async with runtime(tmp_path, trusted=(f"{store.url}/*",)) as pulling:
        assert (await pulling.load(ModelSource("m", "", f"{store.url}/m.tar.gz"))).size_bytes > 0


async def test_a_key_that_moves_a_place_takes_its_trust_away(store: Store, tmp_path: Path) -> None:
    """`s3://trusted/…` at an endpoint of whoever registers the model is not what the operator meant."""
    config = json.dumps({"type": "s3", "access_key_id": "a", "secret_access_key": "b", "bucket": "trusted"})
    async with runtime(tmp_path, trusted=("s3://trusted/*",), configs=lambda _name: config) as pulling:
        key = json.dumps({"storage_key": "k", "storage_params": {"endpoint_url": store.url}})
        for path in ("m.joblib", "s3://trusted/m.joblib"):
            error = await refused(pulling.load(ModelSource("m", "sklearn", path, key)))
            assert error.status is Status.PERMISSION_DENIED
            assert "its key moves it elsewhere" in str(error)


async def test_what_a_store_refuses_is_the_loads_error(store: Store, tmp_path: Path) -> None:
    async with runtime(tmp_path) as pulling:
        error = await refused(pulling.load(ModelSource("m", "onnx", f"{store.url}/gone.onnx")))
        assert error.status is Status.NOT_FOUND
        error = await refused(pulling.load(ModelSource("m", "onnx", "ftp://host/x")))
        assert error.status is Status.INVALID_ARGUMENT
        error = await refused(pulling.load(ModelSource("m", "onnx", "m", '{"storage_key": "k"}')))
        assert error.status is Status.FAILED_PRECONDITION
        store.files["/broken.onnx"] = b"no model"
        error = await refused(pulling.load(ModelSource("m", "onnx", f"{store.url}/broken.onnx")))
        assert error.status is Status.INVALID_ARGUMENT
        assert pulling._puller.cache.usage().held_bytes == 0


async def test_predictions_before_and_after_the_files_are_here(store: Store, tmp_path: Path) -> None:
    async with runtime(tmp_path) as pulling:
        source = ModelSource("m", "onnx", f"{store.url}/iris.onnx")
        before = await pulling.predict_size(source)
        assert store.bodies == []
        loaded = await pulling.load(source)
        assert await pulling.predict_size(source) == loaded.size_bytes
        assert before is not None
        assert before >= len(store.files["/iris.onnx"])


async def test_a_load_that_is_given_up_leaves_nothing(store: Store, tmp_path: Path, served) -> None:
    store.hold = asyncio.Event()
    async with runtime(tmp_path) as pulling:
        server = await served(pulling, listen="127.0.0.1:0")
        loading = asyncio.ensure_future(server.models.load(ModelSource("m", "onnx", f"{store.url}/iris.onnx")))
        while not store.bodies:
            await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        await server.models.unload("m")
        await pulling._puller.cache.close()
        assert list((tmp_path / "cache" / "partial").iterdir()) == []
        store.hold.set()
        await server.models.load(ModelSource("m", "onnx", f"{store.url}/iris.onnx"))
        assert server.models.ids() == ["m"]


@pytest.mark.parametrize(
    ("pattern", "uri", "holds"),
    [
        ("s3://b/t/*", "s3://b/t/m", True),
        ("s3://b/t/*", "s3://b/t/a/b", True),
        ("s3://b/t/*", "s3://b/tx/m", False),
        ("s3://b/t/*", "s3://b/t", False),
        ("s3://b/t", "s3://b/t", True),
        ("s3://b/t", "s3://b/t/m", False),
        ("s3://b/t*", "gs://b/t", False),
        ("s3://b/[t]/*", "s3://b/t/m", False),
        ("s3://b.b/*", "s3://bxb/m", False),
        ("https://h/t/*", "https://h/t/m?x=/../", True),
        ("https://h/t/*", "https://h.evil/t/m", False),
        ("https://h/t/*", "https://h/t%2f..%2f..%2fx", False),
        ("hf://org/*", "hf://org/repo@main", True),
        ("hf://org/repo@v1", "hf://org/repo", False),
        ("oci://h/t/*", "oci://h/t/m:1", True),
    ],
)
def test_what_a_pattern_means(pattern: str, uri: str, holds: bool) -> None:
    uri = uri.replace("://b/", "://bkt/").replace("://bxb/", "://bktxb/")
    pattern = pattern.replace("://b/", "://bkt/").replace("://b.b/", "://bkt.b/")
    if "%2f.." in uri:
        with pytest.raises(StorageError):
            from_model_key(uri, "", lambda _name: None)
        return
    files = from_model_key(uri, "", lambda _name: None)
    assert TrustedPlaces([pattern]).hold(files) is holds


def test_a_pattern_that_is_none() -> None:
    for pattern in ("", "*", "bucket/*", "/models/*"):
        with pytest.raises(ValueError, match="is no pattern"):
            TrustedPlaces([pattern])


def test_secrets_are_not_sent_to_where_a_key_points() -> None:
    config = {"type": "http", "url": "https://h/base", "headers": {"Authorization": "TOPSECRET"}}
    for params, fine in (({"url": "https://h/other"}, True), ({"url": "https://evil/base"}, False)):
        key = json.dumps({"storage_key": "k", "storage_params": params})
        if fine:
            assert from_model_key("m", key, lambda _name: json.dumps(config)).model.place == "https://h"
            continue
        with pytest.raises(StorageError, match="would send the secrets") as error:
            from_model_key("m", key, lambda _name: json.dumps(config))
        assert error.value.code is Status.PERMISSION_DENIED
        assert "TOPSECRET" not in str(error.value)
