"""What an adapter adds to a load, how near the sizes are that it measures, and what calls cost. `make bench-servers`.

Each server is the real one on loopback. For loads the adapter's runtime is in this process, with its driver's calls timed: the
adapter's own share is what a load takes beyond them (files found and laid out, memory read, sizes judged). Twenty loads and
unloads of one model, then four copies of it side by side; the server's memory is what the kernel counts for its processes.
`tests/servers`, which the target puts on the path, knows how the servers are started.
"""

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.servers.inference import inference
from benchmarks.servers.page import render
from benchmarks.servers.subject import Subject, subjects
from real_kit import Beings, adapter_environment

from modelmesh.instance.local_cluster import free_port
from modelmesh.instance.processes import start_child
from modelmesh.runtime.contract import ModelSource
from modelmesh.runtime.errors import RuntimeFault
from modelmesh.servers.adapter import AdapterRuntime
from modelmesh.servers.driver import Driver
from modelmesh.servers.files import LocalFiles
from modelmesh.servers.settings import read_settings
from modelmesh.servers.sizes import Sizes

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
RESULTS = ROOT / "benchmarks" / "results"
CYCLES = 20
SIDE_BY_SIDE = 4


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


async def side_by_side(runtime: AdapterRuntime, driver: Timed, model_format: str, path: Path) -> float:
    """MB that the server grows by for each of several copies at once: more than one does not fit into what the server kept."""
    before = await driver.memory() or 0
    sources = [ModelSource(f"bench-{number}", f"mt:{model_format}", str(path)) for number in range(SIDE_BY_SIDE)]
    placed = [await runtime.load(source) for source in sources]
    grew = (await driver.memory() or 0) - before
    for one in placed:
        await runtime.unload(one)
    return grew / SIDE_BY_SIDE / 1e6


async def measure() -> dict[str, Any]:
    """Every format of every server."""
    loads: dict[str, Any] = {}
    calls: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-servers-") as text:
        folder = Path(text)
        for subject in subjects(folder):
            async with running(subject, folder) as (runtime, driver):
                for model_format, path in subject.models.items():
                    runs = await cycles(runtime, driver, model_format, path)
                    beside = await side_by_side(runtime, driver, model_format, path)
                    loads[f"{subject.name}, {model_format}"] = {"cycles": runs, "side_by_side_mb": beside}
                    own = statistics.median(run["own_ms"] for run in runs)
                    print(f"{subject.name}, {model_format}: {own:.1f} ms of our own in a load")
            called = f"{subject.name}, {subject.call.model_format}"
            calls[called] = await inference(subject, subject.call, folder / f"{subject.name}-called")
            over = statistics.median(run["instance_us"] / run["echo_instance_us"] for run in calls[called])
            print(f"{called}: a call costs the instance {over:.2f} times what it costs in front of an echo")
    return {"loads": loads, "calls": calls}


def main() -> int:
    """Measure, and write the results."""
    load_before = os.getloadavg()[0]
    found = asyncio.run(measure())
    result = {
        **environment(),
        "load_average": [load_before, os.getloadavg()[0]],
        **found,
    }
    (RESULTS / "servers.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "servers.md").write_text(render(result))
    print(f"written: {RESULTS / 'servers.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
