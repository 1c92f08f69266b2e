"""A puller over a cache in the test's own folder, and an S3 that answers as S3 does."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import obstore
import pytest
from obstore.store import S3Store

from modelmesh.storage import DiskCache, Limits, Location, Places, Puller, Transfer, parse_location

MIB = 1024 * 1024
QUICK = Transfer(streams=8, part_bytes=64 * 1024, parts_from_bytes=200 * 1024, first_wait_s=0.001, longest_wait_s=0.01)
"""Small parts, so that small files have several; waits that are none."""


@dataclass(frozen=True)
class S3:
    """An S3 with one bucket."""

    url: str

    @property
    def settings(self) -> dict[str, str]:
        return {
            "access_key_id": "AKIDOFTHETEST",
            "secret_access_key": "SECRETOFTHETEST",
            "endpoint_url": self.url,
            "region": "us-east-1",
        }

    def location(self, uri: str) -> Location:
        return parse_location(uri).with_settings(self.settings)

    def store(self, bucket: str = "bkt") -> S3Store:
        key, secret = self.settings["access_key_id"], self.settings["secret_access_key"]
        return S3Store(
            bucket,
            endpoint=self.url,
            access_key_id=key,
            secret_access_key=secret,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def put(self, **files: bytes) -> None:
        for name, content in files.items():
            obstore.put(self.store(), name, content)

    def raw(self, method: str, path: str, body: bytes = b"") -> None:
        """A request with a key as the library would not write it."""
        signed = "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        request = urllib.request.Request(
            f"{self.url}/{path}",
            data=body,
            method=method,
            headers={"Authorization": signed, "Content-Type": "application/octet-stream"},
        )
        urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys; sys.argv = ['moto', '-H', '127.0.0.1', '-p', '{port}']; import moto.server; moto.server.main()",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environ,
    )
    found = S3(f"http://127.0.0.1:{port}")
    try:
        for _ in range(600):
            try:
                found.raw("PUT", "bkt")
                break
            except OSError:
                assert process.poll() is None, "moto did not start"
                time.sleep(0.05)
        yield found
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@dataclass
class Bench:
    """A puller and its folders."""

    puller: Puller
    cache: DiskCache
    folder: Path


def make_puller(folder: Path, *, budget: int = 1024 * MIB, **more: object) -> Puller:
    options: dict[str, object] = {"transfer": QUICK, "environ": {}, **more}
    puller = Puller(DiskCache(folder, budget), **options)  # type: ignore[arg-type]
    puller._fetcher._rng = Random(1)
    return puller


@pytest.fixture
async def puller(tmp_path: Path) -> AsyncIterator[Puller]:
    async with make_puller(
        tmp_path / "cache",
        places=Places(tmp_path / "claims", (tmp_path / "models",)),
        limits=Limits(max_files=2000, max_bytes=256 * MIB),
    ) as made:
        yield made


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_left(cache: DiskCache) -> bool:
    """No file of a pull that failed is in the cache's folder."""
    return not any(any((cache.folder / name).iterdir()) for name in ("entries", "partial"))
