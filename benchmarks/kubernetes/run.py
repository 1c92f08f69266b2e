"""`make bench-kubernetes`: the controller with 10,000 InferenceServices in 20 namespaces, applied anew and after a restart."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import environment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PORTS = (18090, 18091)
WITHIN_S = 300.0
STEADY_S = 60.0


@dataclass(frozen=True)
class Row:
    """One figure: what it is, its unit, and its bound from above (None: it has none)."""

    what: str
    unit: str
    must: float | None


ROWS = {
    "new_s": Row("10,000 new InferenceServices, until all statuses are right", "s", None),
    "new_set_calls_per_model": Row("vmodels set for each new InferenceService", "", None),
    "restart_s": Row("controller restarted, nothing changed: until all are looked at", "s", 60),
    "restart_writes": Row("API writes after the restart", "", 0),
    "restart_set": Row("vmodels set after the restart", "", 0),
    "memory_mib": Row("resident memory then", " MiB", 300),
    "single_p50_s": Row("one InferenceService applied, load time 0: until it says Loaded, p50", "s", 1),
    "single_p99_s": Row("the same, p99", "s", None),
    "steady_requests": Row("API requests in a minute without changes, beyond watches and the lease", "", 10),
}


class Scene:
    """The cluster around the controller, in a process of its own."""

    def __init__(self, folder: Path, namespaces: int, models: int) -> None:
        words = [sys.executable, "-m", "benchmarks.kubernetes.scene", str(folder), str(namespaces), str(models)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        url = folder / "url"
        wait(lambda: url.exists() and url.read_text() != "", "the cluster around the controller")
        self.url = url.read_text()

    def ask(self, word: str = "look") -> dict[str, Any]:
        """What happened so far; `forget` counts from now, `apply` applies models one by one first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class Controller:
    """A controller as it runs in a pod."""

    def __init__(self, url: str, log: Path) -> None:
        words = [sys.executable, "-m", "modelmesh.cli", "controller", "--server", url]
        words += ["--metrics-addr", f"127.0.0.1:{PORTS[0]}", "--health-probe-bind-address", f"127.0.0.1:{PORTS[1]}"]
        with log.open("ab") as file:
            environ = {**os.environ, "NAMESPACE": "modelmesh-serving", "POD_NAME": "bench-1-1"}
            self._process = subprocess.Popen(words, env=environ, stdout=file, stderr=file)

    def metrics(self) -> dict[str, float]:
        """Its metrics; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[0]}/metrics", timeout=30) as response:
                text = response.read().decode()
        except OSError:
            return {}
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def looked(self, models: int) -> bool:
        """Whether every model was looked at, and nothing waits."""
        found = self.metrics()
        looks = found.get('modelmesh_controller_looks_total{queue="models"}', 0)
        waiting = [value for name, value in found.items() if name.startswith("modelmesh_controller_waiting")]
        meshes = [value for name, value in found.items() if name.startswith("modelmesh_controller_mesh_synced")]
        return looks >= models and not any(waiting) and bool(meshes) and all(meshes)

    def stop(self) -> None:
        """End it, as a pod ends."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


@contextmanager
def running(url: str, log: Path) -> Iterator[Controller]:
    """A controller until the end of the block."""
    one = Controller(url, log)
    try:
        yield one
    finally:
        one.stop()


def wait(holds: Any, what: str) -> float:
    """Wait until something holds; how long that took. Raises TimeoutError."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > WITHIN_S:
            raise TimeoutError(f"{what}: not within {WITHIN_S:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - began


def measure(namespaces: int, models: int) -> dict[str, float]:
    """All figures."""
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = Scene(folder, namespaces, models)
        try:
            with running(scene.url, folder / "log"):
                values["new_s"] = wait(lambda: scene.ask()["right"] == models, "statuses of new resources")
                values["new_set_calls_per_model"] = scene.ask()["set"] / models
            time.sleep(3)
            scene.ask("forget")
            with running(scene.url, folder / "log") as one:
                values["restart_s"] = wait(lambda: one.looked(models), "looks after the restart")
                seen = scene.ask()
                writes = {verb: n for verb, n in seen["requests"].items() if verb not in {"LIST", "WATCH", "GET"}}
                values["restart_writes"] = float(sum(writes.values()))
                values["restart_set"] = float(seen["set"])
                values["memory_mib"] = one.metrics()["process_resident_memory_bytes"] / 2**20
                singles = sorted(scene.ask("apply")["singles_s"])
                values["single_p50_s"] = singles[len(singles) // 2]
                values["single_p99_s"] = singles[len(singles) * 99 // 100]
                scene.ask("forget")
                time.sleep(STEADY_S)
                steady = scene.ask()["requests"]
                values["steady_requests"] = float(sum(n for verb, n in steady.items() if verb != "WATCH"))
        except BaseException:
            print((folder / "log").read_text()[-3000:], file=sys.stderr)
            raise
        finally:
            scene.stop()
    return values


def holds(row: Row, value: float) -> bool:
    """Whether a figure is within its bound."""
    return row.must is None or value <= row.must


def render(result: dict[str, Any]) -> str:
    """The page."""
    place = result["environment"]
    machine = place["machine"]
    lines = [
        "# The Kubernetes controller",
        "",
        f"{place['date']}, commit {place['commit']}, {machine['cpus']} CPUs ({machine['cpu']}); `make bench-kubernetes`.",
        f"{result['models']:,} InferenceServices in {result['namespaces']} namespaces. The API server is the one in memory, and meshes answer",
        "at once; both share the machine with the controller.",
        "",
        "| figure | measured | must | |",
        "|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        value = result["values"][name]
        must = "" if row.must is None else f"at most {row.must:g}{row.unit}"
        verdict = "" if row.must is None else "yes" if holds(row, value) else "**no**"
        lines.append(f"| {row.what} | {value:.4g}{row.unit} | {must} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, render, print; 1 if a figure is not within its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespaces", type=int, default=20)
    parser.add_argument("--models", type=int, default=10_000)
    arguments = parser.parse_args()
    values = measure(arguments.namespaces, arguments.models)
    result = {
        "environment": environment(),
        "namespaces": arguments.namespaces,
        "models": arguments.models,
        "values": values,
    }
    page = render(result)
    print(page)
    if arguments.models == 10_000:
        (RESULTS / "kubernetes.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "kubernetes.md").write_text(page)
    return 0 if all(holds(ROWS[name], value) for name, value in values.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
