"""Model files: what a pull costs beside plain downloads, and what it never costs twice. `make bench-storage`.

The store is a real S3 server on loopback (versitygw over a folder), so the network is free and what is measured is the work on this
machine. Contenders take turns; each starts with nothing on disk. A plain download is what somebody would write by hand: the
same objects, to files of the same names, many at once, with no checks beyond those of the library.
"""

import argparse
import asyncio
import hashlib
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import obstore
from benchmarks.environment import environment
from benchmarks.storage.counting import counted
from benchmarks.storage.page import render
from boto3.s3.transfer import TransferConfig
from obstore.store import S3Store

from modelmesh.storage import DiskCache, Puller, parse_location

MB = 1_000_000
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
S5CMD = ROOT / ".tools" / "s5cmd" / "s5cmd" / "bin" / "s5cmd"
KEY, SECRET, BUCKET = "benchmark", "benchmark-secret", "models"
ROUNDS = 5
STREAMS = 16


class Store:
    """A running server with a bucket."""

    def __init__(self, server: Path, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / BUCKET).mkdir(parents=True)
        self.folder = folder / BUCKET
        command = [
            str(server),
            "--access",
            KEY,
            "--secret",
            SECRET,
            "--port",
            f"127.0.0.1:{self.port}",
            "posix",
            str(folder),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit("versitygw does not listen") from None
                time.sleep(0.05)

    def put(self, name: str, size_bytes: int) -> None:
        """An object of pseudo-random bytes, through the protocol, so that it has its tags."""
        content = hashlib.shake_128(name.encode()).digest(min(size_bytes, MB)) * (size_bytes // min(size_bytes, MB))
        self.plain().put_object(Bucket=BUCKET, Key=name, Body=content)

    def plain(self) -> Any:
        """boto3's client."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    @property
    def settings(self) -> dict[str, str]:
        """Of our storage configuration."""
        return {
            "access_key_id": KEY,
            "secret_access_key": SECRET,
            "endpoint_url": self.url,
            "region": "us-east-1",
        }

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def ours(store: Store, names: list[str], prefix: str, into: Path) -> None:
    """`modelmesh.storage`: listed, fetched, checked, synced, published in a disk cache."""

    async def main() -> None:
        async with Puller(DiskCache(into / "cache", 8000 * MB), environ={}) as puller:
            location = parse_location(f"s3://{BUCKET}/{prefix}").with_settings(store.settings)
            (await puller.pull(location)).release()

    del names
    asyncio.run(main())


def _obstore(store: Store) -> S3Store:
    return S3Store(
        BUCKET,
        endpoint=store.url,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
    )


def plain_obstore(store: Store, names: list[str], prefix: str, into: Path, *, sync: bool = False) -> None:
    """The library under ours, used by hand: one stream an object, 16 objects at once. `sync`: each file reaches the disk."""
    del prefix
    s3 = _obstore(store)

    def one(name: str) -> None:
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for piece in obstore.get(s3, name).stream(min_chunk_size=2 * 1024 * 1024):
                file.write(piece)
            if sync:
                file.flush()
                os.fsync(file.fileno())

    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(one, names))


def plain_boto3(store: Store, names: list[str], prefix: str, into: Path) -> None:
    """boto3's transfer manager as AWS documents it: 16 threads, objects in parts of 16 MB."""
    del prefix
    client = store.plain()
    config = TransferConfig(max_concurrency=STREAMS, multipart_chunksize=16 * MB)

    def one(name: str) -> None:
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, name, str(target), Config=config)

    with ThreadPoolExecutor(1 if len(names) == 1 else STREAMS) as pool:
        list(pool.map(one, names))


def plain_s5cmd(store: Store, names: list[str], prefix: str, into: Path) -> None:
    """s5cmd, a program in Go that is known for its speed, with its own settings: 256 workers, parts of 50 MB, 5 at once."""
    del names
    command = [str(S5CMD), "--log", "error", "--endpoint-url", store.url, "cp", f"s3://{BUCKET}/{prefix}/*", f"{into}/"]
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    subprocess.run(command, check=True, env={**os.environ, **keys})


CONTENDERS: Mapping[str, Callable[..., None]] = {
    "modelmesh": ours,
    "s5cmd": plain_s5cmd,
    "obstore": plain_obstore,
    "obstore, synced": partial(plain_obstore, sync=True),
    "boto3": plain_boto3,
}


def timed(name: str, store: Store, names: list[str], prefix: str, scratch: Path) -> dict[str, float]:
    """Seconds and CPU seconds of one download, in a process of its own that has imported what it needs."""
    into = scratch / "into"
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    os.sync()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        began, before = time.perf_counter(), _cpu_seconds()
        CONTENDERS[name](store, names, prefix, into)
        seconds = time.perf_counter() - began
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        told = {"seconds": seconds, "cpu_seconds": _cpu_seconds() - before, "peak_mb": peak_mb}
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit(f"{name} failed")
    found: dict[str, float] = json.loads(text)
    return found


def _cpu_seconds() -> float:
    """Of this process, and of what it has started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def downloads(store: Store, scratch: Path, rounds: int) -> dict[str, Any]:
    """One large file and many small ones, all contenders in turn."""
    shapes = {"one file of 500 MB": ["large/model.bin"], "500 files of 1 MB": [f"many/{n:03}.bin" for n in range(500)]}
    store.put("large/model.bin", 500 * MB)
    for name in shapes["500 files of 1 MB"]:
        store.put(name, MB)
    found: dict[str, Any] = {}
    for shape, names in shapes.items():
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for name in CONTENDERS:
                runs[name].append(timed(name, store, names, names[0].partition("/")[0], scratch))
        found[shape] = runs
        print(f"{shape}: " + ", ".join(f"{name} {_median(one, 'seconds'):.2f} s" for name, one in runs.items()))
    return found


def second_pulls(store: Store, scratch: Path) -> dict[str, Any]:
    """The same content again: what is listed, and nothing else; and in turn the plain listing of the same objects."""
    cache = scratch / "again"
    times: dict[str, list[float]] = {"large": [], "many": []}
    listed: dict[str, list[float]] = {"large": [], "many": []}
    s3 = _obstore(store)

    async def main() -> None:
        for prefix, taken in times.items():
            location = parse_location(f"s3://{BUCKET}/{prefix}").with_settings(store.settings)
            async with Puller(DiskCache(cache, 8000 * MB), environ={}) as puller:
                (await puller.pull(location)).release()
                for _ in range(20):
                    began = time.perf_counter()
                    (await puller.pull(location)).release()
                    taken.append((time.perf_counter() - began) * 1000)
                    began = time.perf_counter()
                    async for _chunk in obstore.list(s3, prefix, chunk_size=1000):
                        pass
                    listed[prefix].append((time.perf_counter() - began) * 1000)

    asyncio.run(main())
    return {
        prefix: {
            "median_ms": statistics.median(taken),
            "listing_ms": statistics.median(listed[prefix]),
            "own_ms": statistics.median(map(float.__sub__, taken, listed[prefix])),
            "all_ms": taken,
        }
        for prefix, taken in times.items()
    }


def shared(scratch: Path) -> dict[str, Any]:
    """Fifty callers of one cold model in three processes on one cache: bytes that the server sent."""
    return counted(scratch / "shared", processes=3, callers=50, size_bytes=50 * MB)


def memory(store: Store, scratch: Path) -> dict[str, Any]:
    """Peak memory of a process that pulls 2 GB, and before it began."""
    name = "huge/model.bin"
    path = store.folder / name
    path.parent.mkdir()
    with path.open("wb") as file:
        for _ in range(2000):
            file.write(os.urandom(MB))
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from modelmesh.storage import DiskCache, Puller, parse_location\n"
        "import obstore.store\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
        "before = peak()\n"
        "settings = dict(zip(sys.argv[3::2], sys.argv[4::2]))\n"
        "async def main():\n"
        "    async with Puller(DiskCache(Path(sys.argv[1]), 8 * 10**9), environ={}) as puller:\n"
        "        (await puller.pull(parse_location(sys.argv[2]).with_settings(settings))).release()\n"
        "asyncio.run(main())\n"
        "print(before, peak())"
    )
    arguments = [str(scratch / "huge"), f"s3://{BUCKET}/huge", *(x for pair in store.settings.items() for x in pair)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    before, peak = (int(number) / 1000 for number in done.stdout.split())
    shutil.rmtree(scratch / "huge")
    path.unlink()
    return {"before_mb": before, "peak_mb": peak}


def _median(runs: list[dict[str, float]], what: str) -> float:
    return statistics.median(run[what] for run in runs)


def main() -> int:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", type=Path, help="versitygw")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    busy_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-storage-") as text:
        scratch = Path(text)
        store = Store(arguments.server, scratch / "store")
        try:
            found = {
                "downloads": downloads(store, scratch, arguments.rounds),
                "second": second_pulls(store, scratch),
                "shared": shared(scratch),
                "memory": memory(store, scratch),
            }
        finally:
            store.stop()
    result = {
        **environment(),
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in ("obstore", "boto3")},
            "s5cmd": subprocess.run([S5CMD, "version"], capture_output=True, text=True, check=True)
            .stdout.split("-")[0]
            .strip(),
        },
        "load_average": [busy_before, os.getloadavg()[0]],
        "results": found,
    }
    (RESULTS / "storage.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "storage.md").write_text(render(result))
    print(f"written: {RESULTS / 'storage.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
