"""Images and artifacts of a registry, whose specification the double keeps to."""

import gzip
import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from conftest import make_puller, nothing_left, tree
from doubles import Registry, serving

from modelmesh.storage import Location, Puller, StorageError, parse_location
from modelmesh.values.status import Status

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FILE = "application/octet-stream"
TITLE = "org.opencontainers.image.title"


def layer(files: dict[str, bytes | None]) -> bytes:
    """A layer of an image; None: a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(content)
            made.addfile(member, io.BytesIO(content or b""))
    return out.getvalue()


@asynccontextmanager
async def registry(**more: object) -> AsyncIterator[tuple[Registry, str]]:
    double = Registry(**more)
    async with serving(double) as url:
        double.url = url
        yield double, url.removeprefix("http://")


async def pull(puller: Puller, location: Location) -> dict[str, bytes]:
    with await puller.pull(location) as pulled:
        return {pulled.path.name: pulled.path.read_bytes()} if pulled.path.is_file() else tree(pulled.path)


async def test_an_artifact_of_files(puller: Puller) -> None:
    async with registry() as (double, host):
        double.push("1", (FILE, {TITLE: "model.onnx"}, b"m" * 300_000), (FILE, {TITLE: "sub/labels.txt"}, b""))
        whole = {"model.onnx": b"m" * 300_000, "sub/labels.txt": b""}
        assert await pull(puller, parse_location(f"oci://{host}/org/model:1")) == whole
        assert await pull(puller, parse_location(f"oci://{host}/org/model:1/model.onnx")) == {
            "model.onnx": b"m" * 300_000
        }
        assert await pull(puller, parse_location(f"oci://{host}/org/model:1/sub")) == {"labels.txt": b""}
        blobs = len([request for request in double.requests if "/blobs/" in request.path])
        assert await pull(puller, parse_location(f"oci://{host}/org/model:1")) == whole
        assert len([request for request in double.requests if "/blobs/" in request.path]) == blobs


async def test_a_folder_of_an_artifact_is_unpacked(puller: Puller) -> None:
    async with registry() as (double, host):
        notes = {TITLE: "folder", "io.deis.oras.content.unpack": "true"}
        double.push("1", (LAYER, notes, layer({"folder": None, "folder/a": b"a"})))
        assert await pull(puller, parse_location(f"oci://{host}/org/model:1")) == {"folder/a": b"a"}


async def test_layers_of_an_image_lie_over_each_other(puller: Puller) -> None:
    """What later layers take away is gone; what is not below the folder does not count, whatever it is."""
    async with registry() as (double, host):
        double.push(
            "1",
            (LAYER, {}, layer({"bin/../../evil": b"x", "./models/a": b"old", "models/gone": b"x", "models/d/x": b"x"})),
            (
                LAYER,
                {},
                layer({"models/a": b"new", "models/.wh.gone": b"", "models/d/.wh..wh..opq": b"", "models/d/y": b"y"}),
            ),
        )
        assert await pull(puller, parse_location(f"oci://{host}/org/model:1")) == {"a": b"new", "d/y": b"y"}
        assert await pull(puller, parse_location(f"oci://{host}/org/model:1/models/d")) == {"y": b"y"}


async def test_an_index_names_the_platform(puller: Puller) -> None:
    async with registry() as (double, host):
        ours = double.push("a", (FILE, {TITLE: "m"}, b"ours"))
        other = double.push("b", (FILE, {TITLE: "m"}, b"other"))
        machine = {"x86_64": "amd64", "aarch64": "arm64"}[__import__("os").uname().machine]
        manifests = [
            {"digest": other, "platform": {"architecture": "s390x"}},
            {"digest": ours, "platform": {"architecture": machine}},
        ]
        double.put("1", {"manifests": manifests}, "application/vnd.oci.image.index.v1+json")
        assert await pull(puller, parse_location(f"oci://{host}/org/model:1")) == {"m": b"ours"}


@pytest.mark.parametrize("wrong", [False, True])
async def test_a_registry_that_wants_a_login(tmp_path: Path, wrong: bool) -> None:
    import base64

    (tmp_path / "docker").mkdir()
    auth = base64.b64encode(b"user:WRONGPASSWORD" if wrong else b"user:password").decode()
    async with registry(login=("user", "password")) as (double, host):
        (tmp_path / "docker" / "config.json").write_text(f'{{"auths": {{"{host}": {{"auth": "{auth}"}}}}}}')
        double.push("1", (FILE, {TITLE: "m"}, b"x"))
        environ = {"DOCKER_CONFIG": str(tmp_path / "docker")}
        async with make_puller(tmp_path / "cache", environ=environ) as puller:
            location = parse_location(f"oci://{host}/org/model:1")
            if not wrong:
                assert await pull(puller, location) == {"m": b"x"}
                return
            with pytest.raises(StorageError) as error:
                await puller.pull(location)
            assert error.value.code is Status.UNAUTHENTICATED
            assert "WRONGPASSWORD" not in str(error.value)
            assert auth not in str(error.value)


async def test_a_blob_that_is_not_its_digest(puller: Puller) -> None:
    async with registry() as (double, host):
        double.push("1", (FILE, {TITLE: "m"}, b"right"))
        for digest in double.blobs:
            double.blobs[digest] = b"wrong"
        with pytest.raises(StorageError) as error:
            await puller.pull(parse_location(f"oci://{host}/org/model:1"))
    await puller.cache.close()
    assert error.value.code is Status.DATA_LOSS
    assert nothing_left(puller.cache)


async def test_a_manifest_that_is_not_its_digest(puller: Puller) -> None:
    async with registry() as (double, host):
        digest = double.push("1", (FILE, {TITLE: "m"}, b"right"))
        double.manifests[digest] = ("application/vnd.oci.image.manifest.v1+json", b"{}")
        with pytest.raises(StorageError) as error:
            await puller.pull(parse_location(f"oci://{host}/org/model@{digest}"))
    assert error.value.code is Status.DATA_LOSS


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        ({}, Status.INVALID_ARGUMENT),
        ({"layers": 1}, Status.INVALID_ARGUMENT),
        ({"layers": []}, Status.NOT_FOUND),
        ({"layers": [1]}, Status.INVALID_ARGUMENT),
        ({"layers": [{"digest": "sha256:1", "size": 1}]}, Status.INVALID_ARGUMENT),
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": "1"}]}, Status.INVALID_ARGUMENT),
        (
            {"layers": [{"digest": "sha256:" + "a" * 64, "size": 1, "annotations": {TITLE: "../x"}}]},
            Status.INVALID_ARGUMENT,
        ),
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": 1, "annotations": {TITLE: "x"}}]}, Status.NOT_FOUND),
        ({"layers": [{"digest": "sha256:" + "a" * 64, "size": 1, "mediaType": "tar+zstd"}]}, Status.INVALID_ARGUMENT),
        ({"manifests": []}, Status.INVALID_ARGUMENT),
        ({"manifests": {"a": 1}}, Status.INVALID_ARGUMENT),
    ],
)
async def test_manifests_that_are_none(puller: Puller, manifest: dict[str, object], code: Status) -> None:
    async with registry() as (double, host):
        double.put("1", manifest)
        with pytest.raises(StorageError) as error:
            await puller.pull(parse_location(f"oci://{host}/org/model:1"))
    assert error.value.code is code


async def test_a_tag_that_is_not_there(puller: Puller) -> None:
    async with registry() as (_, host):
        with pytest.raises(StorageError, match="404") as error:
            await puller.pull(parse_location(f"oci://{host}/org/model:9"))
    assert error.value.code is Status.NOT_FOUND


async def test_a_layer_that_bombs(puller: Puller) -> None:
    bomb = gzip.compress(b"\0" * (100 * 1024 * 1024), compresslevel=1)
    async with registry() as (double, host):
        double.push("1", (LAYER, {}, layer({"models/a": b"a"})), (LAYER, {}, bomb))
        got = await pull(puller, parse_location(f"oci://{host}/org/model:1"))
    assert got == {"a": b"a"}  # an archive of zeros ends where it begins


async def test_a_manifest_without_end(puller: Puller) -> None:
    async def endless(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"[" * (5 * 1024 * 1024))

    async with serving(endless) as url:
        with pytest.raises(StorageError, match="larger than"):
            await puller.pull(parse_location(f"oci://{url.removeprefix('http://')}/org/model:1"))
