"""Evictions that are killed: `python evicting.py FOLDER BUDGET ROUNDS SEED`; says what was found, as JSON.

Each round forks two processes on one full disk cache, and both bring models for which others must leave. One of them kills itself
before an operation on the file system that is part of an eviction; which operation is drawn. The files need no store:
they are made from their names.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from killing import Found, compare

from modelmesh.storage import DiskCache, Limits, Plan, SourceFile, StorageError, parse_location
from modelmesh.storage.cache_folder import CacheFolder
from modelmesh.storage.disk_cache import Filling
from modelmesh.storage.listing import make_plan

MODELS, FILES, LARGEST_BYTES = 12, 3, 60_000
LATEST = 60
"""An eviction has some forty operations; with more, the process ends by itself."""

OPERATIONS = frozenset(
    {"open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock", "shutil.rmtree"}
)
"""Audit events; each is raised before the operation."""


def content(name: str, size: int) -> bytes:
    return Random(name).randbytes(size)


def plan_of(model: str, sizes: list[int]) -> Plan:
    files = [SourceFile(f"{model}-{number}.bin", f"{number}", size, "tag") for number, size in enumerate(sizes)]
    return make_plan(
        parse_location(f"s3://bucket/{model}"), files, is_file=False, endpoint="", unknown="", limits=Limits()
    )


async def bring(cache: DiskCache, plan: Plan) -> int:
    """Hold a model for a moment; 1: it cannot be had."""

    async def fill(filling: Filling) -> None:
        for file in plan.files:
            part = filling.parts / file.name
            part.write_bytes(content(file.name, file.size_bytes or 0))
            part.rename(filling.files / file.name)

    try:
        (await cache.acquire(plan, fill)).release()
    except StorageError as error:
        sys.stderr.write(f"{error.code.name}: {error}\n")
        return 1
    return 0


def killed_after(operations: int) -> None:
    """From now on this process kills itself before that operation of its evictions."""
    here = threading.local()
    left = [operations]

    def watched(evict: Callable[..., None]) -> Callable[..., None]:
        def evicting(*arguments: Any) -> None:
            here.evicting = True
            try:
                evict(*arguments)
            finally:
                here.evicting = False

        return evicting

    def hook(event: str, _arguments: tuple[Any, ...]) -> None:
        if event in OPERATIONS and getattr(here, "evicting", False):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    for name in ("make_room", "trim", "empty_trash"):
        setattr(CacheFolder, name, watched(getattr(CacheFolder, name)))
    sys.addaudithook(hook)


def forked(work: Callable[[], int]) -> int:
    child = os.fork()
    if child == 0:
        os._exit(min(100, work()))
    return child


def main(folder: Path, budget: int, rounds: int, seed: int) -> Found:
    rng, found = Random(seed), Found()
    sizes = {f"m{number}": [rng.randrange(LARGEST_BYTES) for _ in range(FILES)] for number in range(MODELS)}
    plans = [plan_of(model, each) for model, each in sizes.items()]
    truth = {file.name: content(file.name, file.size_bytes or 0) for plan in plans for file in plan.files}

    def brings(chosen: list[Plan], keep_bytes: int | None = None) -> int:
        async def all_of_them() -> int:
            cache = DiskCache(folder, budget)
            if keep_bytes is not None:
                await cache.trim(keep_bytes)
            failed = [await bring(cache, plan) for plan in chosen]
            await cache.close()
            return sum(failed)

        return asyncio.run(all_of_them())

    found.failed += brings(plans)
    for _ in range(rounds):
        mine, other, last = rng.sample(plans, 4), rng.sample(plans, 4), rng.randint(1, LATEST)
        keep_bytes = rng.choice([None, rng.randrange(budget)])

        def victim(mine: list[Plan] = mine, last: int = last, keep_bytes: int | None = keep_bytes) -> int:
            killed_after(last)
            return brings(mine, keep_bytes)

        children = [forked(victim), forked(lambda other=other: brings(other))]  # type: ignore[misc] # bound now
        ends = [os.waitpid(child, 0)[1] for child in children]
        found.rounds += 1
        found.killed += os.WIFSIGNALED(ends[0])
        found.failed += ends[1] != 0
        compare(folder, truth, found)
    for plan in plans:
        found.failed += brings([plan])
        compare(folder, truth, found)
    # All must leave for one that has the whole budget: nothing that a killed process left counts as taken.
    whole = plan_of("whole", [budget])
    truth[whole.files[0].name] = content(whole.files[0].name, budget)
    found.failed += brings([whole])
    compare(folder, truth, found)
    found.trash = len(list((folder / "trash").iterdir())) + len(list((folder / "partial").iterdir()))
    return found


if __name__ == "__main__":
    _, folder, budget, rounds, seed = sys.argv
    sys.stdout.write(json.dumps(asdict(main(Path(folder), int(budget), int(rounds), int(seed)))))
