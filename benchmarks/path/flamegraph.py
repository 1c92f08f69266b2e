"""Where the time of a warm call goes: a flame graph of the instance's data thread. `make flame-path`.

Needs Linux's `perf`; inferno draws. The native module is built again with its symbols, and loaded from the scratch
folder: the one in the source tree stays as it is. Writes benchmarks/results/warm-path.svg.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from base import run
from contenders import SCRATCH
from fleet import ROOT, TARGET, BenchmarkError, Process, load, register, say, start_instance, start_runtime
from machine import RESULTS

INFERNO = SCRATCH / "inferno"
SECONDS = 4
SAMPLES_PER_SECOND = 997
"""Not a divisor of anything that happens at regular times."""
STACK_BYTES = 16384
"""Of each sample: the code has no frame pointers, so the stack itself is kept and unwound later."""


def tools() -> None:
    """Raise BenchmarkError for what is missing; inferno is installed once."""
    if shutil.which("perf") is None:
        raise BenchmarkError("perf was not found: apt install linux-perf")
    if not (INFERNO / "bin" / "inferno-flamegraph").exists():
        say("building inferno (a minute, once)")
        crate = ("inferno", "--version", "^0.12", "--no-default-features", "--features", "cli")
        where = {"CARGO_TARGET_DIR": str(SCRATCH / "inferno-target")}
        run("cargo", "install", "-q", "--locked", "--root", str(INFERNO), *crate, why="no inferno", **where)


def with_symbols() -> Path:
    """A copy of `src` whose native module has its symbols."""
    say("building the native module with symbols (a minute)")
    command = ("cargo", "build", "-q", "--release", "--locked", "-p", "modelmesh-python", "--features")
    run(*command, "pyo3/extension-module", why="the native module cannot be built")
    sources = SCRATCH / "symbols" / "src"
    shutil.rmtree(sources, ignore_errors=True)
    shutil.copytree(ROOT / "src", sources)
    shutil.copy(TARGET / "lib_native.so", sources / "modelmesh" / "_core" / "_native.abi3.so")
    return sources


@contextlib.contextmanager
def pair(sources: Path) -> Iterator[tuple[Process, Process]]:
    """An instance and its runtime, with the model `m` loaded."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelmesh-flame-")))
        runtime = start_runtime("runtime")
        stack.callback(runtime.stop)
        store = f"sqlite:{folder}/store.db"
        instance = start_instance("instance", runtime, store, folder, {"PYTHONPATH": str(sources)})
        stack.callback(instance.stop)
        register(instance)
        yield instance, runtime


def record(sources: Path, payload_bytes: int) -> Path:
    """Samples of an instance under warm local calls."""
    data = SCRATCH / "warm-path.perf"
    sampling = ("-e", "cpu-clock", "-F", str(SAMPLES_PER_SECOND), "--call-graph", f"dwarf,{STACK_BYTES}")
    with pair(sources) as (instance, runtime):
        perf = subprocess.Popen(
            ["perf", "record", *sampling, "-o", str(data), "-p", str(instance.popen.pid), "--", "sleep", str(SECONDS)],
            stderr=subprocess.DEVNULL,
        )
        arguments = ("--model", "m", "--seconds", str(SECONDS), "--payload-bytes", str(payload_bytes))
        load(instance.address, [instance, runtime], *arguments)
        if perf.wait() != 0:
            raise BenchmarkError("perf could not record: see kernel.perf_event_paranoid")
    return data


def draw(data: Path, title: str, file: Path) -> None:
    """Stacks of the data threads as an SVG."""
    text = data.with_suffix(".txt")
    with text.open("w") as output:
        subprocess.run(
            ["perf", "script", "--no-inline", "-i", str(data)], stdout=output, stderr=subprocess.DEVNULL, check=True
        )
    collapsed = subprocess.run(
        [str(INFERNO / "bin" / "inferno-collapse-perf"), str(text)], capture_output=True, text=True, check=True
    ).stdout
    stacks = "\n".join(line for line in collapsed.splitlines() if line.startswith("mm-data"))
    picture = subprocess.run(
        [str(INFERNO / "bin" / "inferno-flamegraph"), "--title", title, "--minwidth", "0.3", "--countname", "ns"],
        input=stacks,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    file.write_text(picture)


def main() -> None:
    """Build, record, draw."""
    parser = argparse.ArgumentParser(description="Draw where the time of a warm call goes.")
    parser.add_argument("--payload-bytes", type=int, default=76)
    parser.add_argument("--file", type=Path, default=RESULTS / "warm-path.svg")
    arguments = parser.parse_args()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    tools()
    data = record(with_symbols(), arguments.payload_bytes)
    draw(data, f"Warm local call, {arguments.payload_bytes} B, 4 x 16: data thread of the instance", arguments.file)
    print(arguments.file)


if __name__ == "__main__":
    try:
        main()
    except BenchmarkError as error:
        sys.exit(f"flame-path: {error}")
