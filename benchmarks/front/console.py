"""What an open console costs the instance that serves it, with 10,000 models and 100 changes a second."""

import contextlib
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from benchmarks.path.fleet import Process, free_ports, say, start_instance, start_runtime

from modelmesh._proto import model_mesh_pb2 as pb

MODELS = 10_000
CHANGES_PER_SECOND = 100
SECONDS = 10.0


def console_row(folder: Path, row: Callable[..., dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """CPU of the instance with a page open beside the same without one, as a share of a core."""
    (rest,) = free_ports(1)
    runtime = start_runtime("runtime-console", "--capacity-bytes", str(1 << 40))
    try:
        settings = {"MM_METRICS": "disabled", "MM_ACCESS_LOG": "off", "MM_REST_PORT": str(rest), "MM_CONSOLE": "true"}
        process = start_instance("console", runtime, f"sqlite:{folder}/console.db", folder, settings)
        try:
            with grpc.insecure_channel(process.address) as channel:
                say(f"console: {MODELS} models are loaded")
                for number in range(MODELS):
                    _register(channel, f"m{number}", load=True)
                shares = {is_open: _share(process, channel, rest, is_open=is_open) for is_open in (False, True)}
        finally:
            process.stop()
    finally:
        runtime.stop()
    added = max(0.0, shares[True] - shares[False])
    return {"console open, CPU of the instance as a share of a core": row(added, 0.03, without=round(shares[False], 3))}


def _register(channel: grpc.Channel, model: str, *, load: bool) -> None:
    request = pb.RegisterModelRequest(modelId=model, loadNow=load, modelInfo=pb.ModelInfo(type="bench"))
    channel.unary_unary("/mmesh.ModelMesh/registerModel")(request.SerializeToString(), timeout=30)


def _unregister(channel: grpc.Channel, model: str) -> None:
    request = pb.UnregisterModelRequest(modelId=model)
    channel.unary_unary("/mmesh.ModelMesh/unregisterModel")(request.SerializeToString(), timeout=30)


def _share(process: Process, channel: grpc.Channel, rest: int, *, is_open: bool) -> float:
    """CPU seconds a second, with so many changes."""
    say(f"console: {'a page is open' if is_open else 'nobody looks'}")
    with contextlib.ExitStack() as stack:
        if is_open:
            stack.enter_context(_Page(rest))
        before, began = _cpu_s(process), time.monotonic()
        for number in range(int(SECONDS * CHANGES_PER_SECOND)):
            change = _unregister if number % 2 else _register
            change(channel, "changes", **({} if number % 2 else {"load": False}))
            time.sleep(max(0.0, began + (number + 1) / CHANGES_PER_SECOND - time.monotonic()))
        return (_cpu_s(process) - before) / (time.monotonic() - began)


class _Page:
    """A page that reads what it is told."""

    def __init__(self, rest: int) -> None:
        self._answer = urllib.request.urlopen(f"http://127.0.0.1:{rest}/console/events", timeout=30)
        self._told = 0
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        assert self._told >= SECONDS / 2, "the page was told too little"

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            for line in self._answer:
                if line.startswith(b"data: "):
                    json.loads(line[6:])
                    self._told += 1


def _cpu_s(process: Process) -> float:
    fields = Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
