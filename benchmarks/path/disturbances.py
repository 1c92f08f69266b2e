"""What goes on beside warm calls: the GIL is held, Python is busy, models are registered, loads wait. And the controls.

A control burns in other processes as much CPU as was used beside the calls in the run before: what is worse than
that is not the lack of CPU.
"""

import contextlib
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
from fleet import HERE, BenchmarkError, Process, channel, load_command, register
from stage import Stage

from modelmesh._proto import model_mesh_pb2

CONDITIONS = {
    # name: its control
    "gil held": "idle",
    "busy python": "busy other",
    "storm": "storm other",
    "cold loads": "cold loads other",
}
COLD_LOADS = 64
STORM_MODELS = 100_000


@contextlib.contextmanager
def beside(stage: Stage, condition: str, burnt: dict[str, float]) -> Iterator[list[str]]:
    """Let it go on meanwhile; yields what is to be accounted for besides, as the load generator takes it.

    Args:
        stage: All processes.
        condition: One of CONDITIONS or their controls.
        burnt: CPUs used beside the calls in the last run of each condition.
    """
    with contextlib.ExitStack() as stack:
        also: list[str] = []
        match condition:
            case "idle":
                pass
            case "gil held":
                stack.enter_context(disturbed(stage.front, signal.SIGUSR1, "gil"))
            case "busy python":
                stack.enter_context(disturbed(stage.front, signal.SIGUSR2, "burn"))
            case "storm":
                also = stack.enter_context(storm(stage))
            case "cold loads":
                stack.enter_context(cold_loads(stage))
            case _:
                also = stack.enter_context(
                    burning(burnt[condition.removesuffix(" other").replace("busy", "busy python")])
                )
        yield also


def beside_calls(run: dict[str, Any]) -> float:
    """CPUs that a run used for something else than its calls: all but data threads, runtimes and the generator."""
    used = 0.0
    for name, cpu in run["cpu"].items():
        if name.startswith("instance"):
            used += sum(spent for thread, spent in cpu["threads_s"].items() if not thread.startswith("mm-data"))
        elif name.startswith("beside"):
            used += cpu["schedstat_s"]
    return used / float(run["seconds"])


@contextlib.contextmanager
def disturbed(instance: Process, number: signal.Signals, state: str) -> Iterator[None]:
    """Disturb an instance's Python meanwhile."""
    toggle(instance, number, state)
    try:
        yield
    finally:
        toggle(instance, number, "idle")


def toggle(instance: Process, number: signal.Signals, state: str) -> None:
    """Send the signal and wait until it has its effect."""
    assert instance.state is not None
    instance.popen.send_signal(number)
    until = time.monotonic() + 10
    while instance.state.read_text() != state:
        if time.monotonic() > until:
            raise BenchmarkError(f"{instance.name} does not become {state}")
        time.sleep(0.02)


@contextlib.contextmanager
def burning(cpus: float) -> Iterator[list[str]]:
    """Burn so much CPU in other processes meanwhile."""
    count = max(1, math.ceil(cpus))
    command = [sys.executable, str(HERE / "disturbed_instance.py"), "burn", str(min(0.99, cpus / count))]
    with contextlib.ExitStack() as stack:
        burners = [stack.enter_context(ended(subprocess.Popen(command))) for _ in range(count)]
        time.sleep(0.1)
        yield [f"beside-{number}={burner.pid}" for number, burner in enumerate(burners)]


@contextlib.contextmanager
def ended(popen: "subprocess.Popen[Any]") -> Iterator["subprocess.Popen[Any]"]:
    """End a process that keeps nothing."""
    try:
        yield popen
    finally:
        popen.kill()
        popen.wait()


@contextlib.contextmanager
def storm(stage: Stage) -> Iterator[list[str]]:
    """16 callers register up to 100,000 models at the instance that serves."""
    stage.storms += 1
    request = model_mesh_pb2.RegisterModelRequest(modelId=f"storm-{stage.storms}-#########")
    request.modelInfo.type = "bench"
    arguments = ("--method", "/mmesh.ModelMesh/registerModel", "--message", request.SerializeToString().hex())
    shape = ("--connections", "4", "--streams", "4", "--count", str(STORM_MODELS), "--seconds", "60", "--warmup", "0")
    command = load_command(stage.front.address, [], *arguments, *shape)
    popen = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with ended(popen):
        time.sleep(0.3)
        yield [f"beside-storm={popen.pid}", f"beside-etcd={stage.etcd_pid}"]
        if popen.poll() not in (None, 0):
            raise BenchmarkError("the storm of registrations failed")


@contextlib.contextmanager
def cold_loads(stage: Stage) -> Iterator[None]:
    """64 calls wait for cold models, whose loads take longer than this goes on."""
    stage.colds += 1
    names = [f"cold-{stage.colds}-{number}" for number in range(COLD_LOADS)]
    for name in names:
        register(stage.single, name, load_now=False)
    with channel(stage.single) as opened:
        call = opened.unary_unary("/bench.Echo/Call")
        waiting: list[grpc.Future] = [call.future(b"", metadata=(("mm-model-id", name),), timeout=60) for name in names]
        time.sleep(0.3)
        yield
        if not any(not future.done() for future in waiting):
            raise BenchmarkError("no cold load waited to the end")
        for future in waiting:
            future.cancel()
