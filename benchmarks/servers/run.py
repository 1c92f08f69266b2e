"""What an adapter adds to a load, and how near the sizes are that it measures. `make bench-servers`.

Each server is the real one, alone on loopback, and the adapter's runtime is in this process, with its driver's calls timed: the
adapter's own share is what a load takes beyond them (files found and laid out, memory read, sizes judged). Twenty loads and
unloads of one model; the server's memory is what the kernel counts for its processes. `tests/servers`, which the target puts on
the path, knows how the servers are started.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import real_mlserver
import real_torchserve
import real_triton
from benchmarks.environment import environment
from benchmarks.servers.page import render
from real_kit import Beings, adapter_environment, python_of

from modelmesh.instance.local_cluster import free_port
from modelmesh.instance.processes import start_child
from modelmesh.runtime.contract import ModelSource
from modelmesh.runtime.errors import RuntimeFault
from modelmesh.servers.adapter import AdapterRuntime
from modelmesh.servers.driver import Driver
from modelmesh.servers.files import LocalFiles
from modelmesh.servers.mlserver import MLServer
from modelmesh.servers.settings import read_settings
from modelmesh.servers.sizes import Sizes
from modelmesh.servers.torchserve import TorchServe
from modelmesh.servers.triton import Triton

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
RESULTS = ROOT / "benchmarks" / "results"
CYCLES = 20


@dataclass(frozen=True)
class Subject:
    """A server with one model of each format."""

    name: str
    command: Callable[[Beings], list[str]]
    environment: Callable[[Beings], Mapping[str, str]]
    driver: Callable[[Beings], Driver]
    models: Mapping[str, Path]


class Timed:
    """A driver whose calls to its server are timed: `seconds` since it was last set to 0."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def load(self, model_id: str, folder: Path) -> None:
        """As the driver; timed."""
        began = time.perf_counter()
        try:
            await self._driver.load(model_id, folder)
        finally:
            self.seconds += time.perf_counter() - began


@contextlib.asynccontextmanager
async def running(subject: Subject, folder: Path) -> AsyncIterator[tuple[AdapterRuntime, Timed]]:
    """The server, and an adapter's runtime over it, both ready."""
    root = folder / subject.name
    root.mkdir()
    ports = Beings(free_port(), free_port(), free_port(), root)
    driver = Timed(subject.driver(ports))
    server = await start_child(
        subject.name,
        subject.command(ports),
        log=folder / f"{subject.name}.log",
        environment=dict(subject.environment(ports)),
    )
    try:
        settings = read_settings(adapter_environment(ports, 4096 * MIB, 256 * MIB))
        files = LocalFiles(tuple({path.parent for path in subject.models.values()}))
        runtime = AdapterRuntime(driver, files, settings, Sizes(1.25, 1_000_000))  # type: ignore[arg-type] # it passes all on
        async with asyncio.timeout(90):
            while not runtime.is_ready():
                with contextlib.suppress(RuntimeFault):
                    await runtime.open()
                await asyncio.sleep(0.1)
        yield runtime, driver
        runtime.end()
        await driver.close()
    finally:
        await server.stop()


async def cycles(runtime: AdapterRuntime, driver: Timed, model_format: str, path: Path) -> list[dict[str, float]]:
    """Load and unload, again and again."""
    found = []
    source = ModelSource("bench", f"mt:{model_format}", str(path))
    for _ in range(CYCLES):
        before = await driver.memory() or 0
        driver.seconds, began = 0.0, time.perf_counter()
        placed = await runtime.load(source)
        took = time.perf_counter() - began
        after = await driver.memory() or 0
        await runtime.unload(placed)
        found.append(
            {
                "load_ms": took * 1000,
                "own_ms": (took - driver.seconds) * 1000,
                "size_mb": placed.size_bytes / 1e6,
                "grew_mb": (after - before) / 1e6,
                "left_mb": ((await driver.memory() or 0) - before) / 1e6,
            }
        )
    return found


def subjects(folder: Path) -> list[Subject]:
    """The servers that are installed, with their models."""
    made = folder / "models"
    made.mkdir()
    found = []
    with contextlib.suppress(AssertionError):
        subprocess.run([python_of("mlserver"), str(Path(__file__).with_name("models.py")), str(made)], check=True)
        models = {"sklearn": made / "k.joblib", "xgboost": made / "b.ubj", "lightgbm": made / "l.bst"}
        found.append(
            Subject(
                "mlserver",
                real_mlserver.command,
                real_mlserver.environment,
                lambda ports: MLServer(ports.grpc, ports.metrics),
                models,
            )
        )
    with contextlib.suppress(AssertionError):
        python_of("triton")
        real_triton.write_model(made / "python", 2)
        backends = real_triton.copy_backends(folder)
        command = real_triton.command_with(backends)
        found.append(
            Subject(
                "triton",
                command,
                real_triton.environment,
                lambda ports: Triton(ports.grpc),
                {"python": made / "python"},
            )
        )
    with contextlib.suppress(AssertionError):
        python_of("torchserve")
        real_torchserve.write_archive(made / "t.mar", 2)
        found.append(
            Subject(
                "torchserve",
                real_torchserve.command,
                real_torchserve.environment,
                lambda ports: TorchServe(ports.grpc, ports.folder / TorchServe.folder),
                {"pytorch-mar": made / "t.mar"},
            )
        )
    return found


async def measure() -> dict[str, Any]:
    """Every format of every server."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-servers-") as text:
        for subject in subjects(Path(text)):
            async with running(subject, Path(text)) as (runtime, driver):
                for model_format, path in subject.models.items():
                    runs = await cycles(runtime, driver, model_format, path)
                    found[f"{subject.name}, {model_format}"] = runs
                    own = statistics.median(run["own_ms"] for run in runs)
                    print(f"{subject.name}, {model_format}: {own:.1f} ms of our own in a load")
    return found


def main() -> int:
    """Measure, and write the results."""
    load_before = os.getloadavg()[0]
    found = asyncio.run(measure())
    result = {
        **environment(),
        "load_average": [load_before, os.getloadavg()[0]],
        "results": found,
    }
    (RESULTS / "servers.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "servers.md").write_text(render(result))
    print(f"written: {RESULTS / 'servers.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
