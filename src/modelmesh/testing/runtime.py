"""The scripted runtime as a program, in the place of ModelMesh's example runtime.

    python -m modelmesh.testing.runtime --listen 8085

It reads FAST_MODE, RS_METHOD_INFOS, RS_ALLOW_ANY, UNLOAD_RETURN_NOT_FOUND, TRITON_NOT_FOUND_BEHAVIOUR and
MLSERVER_NOT_FOUND_BEHAVIOUR from the environment, as the original does.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

from modelmesh.testing.model_paths import MIB
from modelmesh.testing.scripted_runtime import ScriptedRuntime


def _method_infos(text: str) -> dict[str, list[int]]:
    """`svc/method=1,2;svc/other=` as methods with their injection paths."""
    infos = {}
    for entry in filter(None, text.split(";")):
        method, _, path = entry.partition("=")
        infos[method.strip()] = [int(number) for number in filter(None, path.split(","))]
    return infos


def from_environment(
    environment: Mapping[str, str], *, listen: Sequence[str], capacity_bytes: int, max_concurrency: int
) -> ScriptedRuntime:
    """A runtime that behaves as the original example runtime does under these variables."""

    def is_true(name: str) -> bool:
        return environment.get(name, "") == "true"

    slow = environment.get("FAST_MODE") == "false"
    not_found: Literal["plain", "triton", "mlserver"] = "plain"
    if is_true("TRITON_NOT_FOUND_BEHAVIOUR"):
        not_found = "triton"
    elif is_true("MLSERVER_NOT_FOUND_BEHAVIOUR"):
        not_found = "mlserver"
    return ScriptedRuntime(
        listen=listen,
        capacity_bytes=capacity_bytes,
        load_ms=None,
        unload_ms=None,
        slow=slow,
        max_concurrency=max_concurrency,
        start_ms=5000 if slow else 1500,
        measure_ms=1000 if slow else 50,
        method_infos=_method_infos(environment.get("RS_METHOD_INFOS", "")),
        allow_any_method=is_true("RS_ALLOW_ANY"),
        unload_not_found=is_true("UNLOAD_RETURN_NOT_FOUND"),
        not_found=not_found,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m modelmesh.testing.runtime", description=__doc__)
    parser.add_argument("--listen", default="8085", help="port, managementPort,servingPort, host:port or unix:///path")
    parser.add_argument("--max-concurrency", type=int, default=0, help="requests per copy at once; 0: not limited")
    parser.add_argument("--capacity-bytes", type=int, default=1024 * MIB, help="what runtimeStatus reports")
    chosen = parser.parse_args(arguments)
    runtime_of = from_environment(
        os.environ,
        listen=chosen.listen.split(","),
        capacity_bytes=chosen.capacity_bytes,
        max_concurrency=chosen.max_concurrency,
    )

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with runtime_of as runtime:
            print(f"listening at {runtime.address} and {runtime.serving_address}", flush=True)  # noqa: T201 - the program's output
            await stop.wait()

    asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
