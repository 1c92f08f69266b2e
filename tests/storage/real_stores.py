"""Azurite and fake-gcs-server, which people test against: the sources for Azure and Google Cloud Storage with their real clients.

`make test-storage` installs them and runs this. Azurite checks signatures; fake-gcs-server checks no credentials.
"""

import base64
import hashlib
import hmac
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest
from conftest import make_puller, tree

from modelmesh.storage import Location, StorageError, parse_location
from modelmesh.values.status import Status

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]
STORES = ROOT / ".tools" / "stores"
ACCOUNT = "devstoreaccount1"
# Azurite's own, in its documentation; no secret.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

FILES = {
    "m/1/weights.bin": Random(1).randbytes(700_000),
    "m/1/empty": b"",
    "m/config.txt": b"hello",
    "mx/other": b"not below m",
    "single.onnx": Random(2).randbytes(5_000),
    **{f"many/{number:04}.txt": str(number).encode() for number in range(1200)},
}


@dataclass(frozen=True)
class Store:
    """A store with one bucket of `FILES`. `put` writes one object; `location` reads with the right credentials."""

    put: Callable[[str, bytes], None]
    location: Callable[[str], Location]
    wrong_key: Callable[[str], Location] | None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "it does not listen"
                time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def azure_put(port: int, path: str, content: bytes, **headers: str) -> None:
    """A signed request, as the service's documentation describes the shared key."""
    query = "restype=container" if "/" not in path else ""
    sent = {
        **headers,
        "x-ms-date": formatdate(usegmt=True),
        "x-ms-version": "2021-12-02",
        "Content-Type": "application/octet-stream",
    }
    own = "".join(f"{name}:{sent[name]}\n" for name in sorted(sent) if name.startswith("x-ms-"))
    length = str(len(content)) if content else ""
    resource = f"/{ACCOUNT}/{ACCOUNT}/{quote(path)}" + ("\nrestype:container" if query else "")
    text = f"PUT\n\n\n{length}\n\n{sent['Content-Type']}\n\n\n\n\n\n\n{own}{resource}"
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    sent["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    url = f"http://127.0.0.1:{port}/{ACCOUNT}/{quote(path)}" + (f"?{query}" if query else "")
    request = urllib.request.Request(url, data=content, method="PUT", headers=sent)
    urllib.request.urlopen(request, timeout=10).close()


def azurite(folder: Path) -> Iterator[Store]:
    port = free_port()
    program = STORES / "node_modules" / ".bin" / "azurite-blob"
    command = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--skipApiVersionCheck"]

    def location(uri: str, key: str = KEY) -> Location:
        text = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT}"
        )
        found = parse_location(f"https://{ACCOUNT}.blob.core.windows.net/bkt/{uri}".rstrip("/"))
        return found.with_settings({"connection_string": text})

    def put(name: str, content: bytes) -> None:
        azure_put(port, f"bkt/{name}", content, **{"x-ms-blob-type": "BlockBlob"})

    other = base64.b64encode(b"another key of some length").decode()
    for _ in running(command, port, folder):
        azure_put(port, "bkt", b"")
        for name, content in FILES.items():
            put(name, content)
        yield Store(put, location, lambda uri: location(uri, other))


def google(folder: Path) -> Iterator[Store]:
    port = free_port()
    program = next((STORES / "gcs").rglob("fake-gcs-server-linux-amd64"))
    command = [str(program), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    url = f"http://127.0.0.1:{port}"

    def post(path: str, body: bytes, kind: str) -> None:
        request = urllib.request.Request(f"{url}/{path}", data=body, headers={"Content-Type": kind})
        urllib.request.urlopen(request, timeout=10).close()

    def put(name: str, content: bytes) -> None:
        post(f"upload/storage/v1/b/bkt/o?uploadType=media&name={quote(name, safe='')}", content, "application/x-model")

    def location(uri: str) -> Location:
        return parse_location(f"gs://bkt/{uri}".rstrip("/")).with_settings({"endpoint_url": url})

    for _ in running([*command, "-external-url", url, "-public-host", url.removeprefix("http://")], port, folder):
        post("storage/v1/b?project=test", b'{"name": "bkt"}', "application/json")
        for name, content in FILES.items():
            put(name, content)
        yield Store(put, location, None)


@pytest.fixture(scope="module", params=[azurite, google], ids=["azurite", "fake-gcs-server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    yield from request.param(tmp_path_factory.mktemp("store"))


def below(prefix: str) -> dict[str, bytes]:
    return {name.removeprefix(prefix): content for name, content in FILES.items() if name.startswith(prefix)}


async def test_a_folder_comes_whole_and_a_second_pull_fetches_nothing(store: Store, tmp_path: Path) -> None:
    async with make_puller(tmp_path / "cache") as puller:
        for _ in range(2):
            with await puller.pull(store.location("m")) as pulled:
                assert tree(pulled.path) == below("m/")
        entries = list((tmp_path / "cache" / "entries").iterdir())
        assert len(entries) == 1


async def test_a_single_object_and_a_large_one_in_parts(store: Store, tmp_path: Path) -> None:
    async with make_puller(tmp_path / "cache") as puller:
        for name in ("single.onnx", "m/1/weights.bin"):
            with await puller.pull(store.location(name)) as pulled:
                assert pulled.path.read_bytes() == FILES[name]


async def test_more_objects_than_a_page_holds(store: Store, tmp_path: Path) -> None:
    async with make_puller(tmp_path / "cache") as puller:
        with await puller.pull(store.location("many")) as pulled:
            assert tree(pulled.path) == below("many/")


async def test_an_object_that_changed_is_fetched_again(store: Store, tmp_path: Path) -> None:
    async with make_puller(tmp_path / "cache") as puller:
        for content in (b"one", b"two!"):
            store.put("changing/file", content)
            with await puller.pull(store.location("changing")) as pulled:
                assert tree(pulled.path) == {"file": content}


@pytest.mark.parametrize("missing", ["gone", "m/1/gone.bin"])
async def test_nothing_there_is_named(store: Store, tmp_path: Path, missing: str) -> None:
    async with make_puller(tmp_path / "cache") as puller:
        with pytest.raises(StorageError, match=missing) as error:
            await puller.pull(store.location(missing))
        assert error.value.code is Status.NOT_FOUND


async def test_a_container_that_is_not_there(store: Store, tmp_path: Path) -> None:
    there = store.location("m")
    elsewhere = replace(there, place=there.place.replace("bkt", "no-such"))
    async with make_puller(tmp_path / "cache") as puller:
        with pytest.raises(StorageError, match="m") as error:
            await puller.pull(elsewhere)
        # fake-gcs-server answers 500 for a bucket that it does not have.
        assert error.value.code is (Status.NOT_FOUND if store.wrong_key else Status.UNAVAILABLE)


async def test_a_wrong_key_is_refused_and_not_shown(store: Store, tmp_path: Path) -> None:
    if store.wrong_key is None:
        pytest.skip("fake-gcs-server checks no credentials")
    async with make_puller(tmp_path / "cache") as puller:
        location = store.wrong_key("m")
        with pytest.raises(StorageError) as error:
            await puller.pull(location)
        assert error.value.code in {Status.PERMISSION_DENIED, Status.UNAUTHENTICATED}
        assert "another key" not in str(error.value)
        assert base64.b64encode(b"another key of some length").decode() not in str(error.value)
