"""Pulls that are killed at random moments: `python killing.py FOLDER BUDGET TRUTH ROUNDS SEED URI…`; says what was found, as JSON.

Each round is a child that pulls some of the locations, forked, so that a round costs no start of Python. After each kill all
files under a final name are compared with the truth, a folder of what the sources have by name.
"""

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from modelmesh.storage import DiskCache, Puller, StorageError, Transfer, parse_location

LONGEST_S, SHORTEST_S = 0.5, 0.01
"""How long a round may last before it is killed. It becomes shorter after one that ended by itself, and longer after a kill,
so that about half of them are killed on any machine."""


@dataclass
class Found:
    """What was seen in all rounds."""

    rounds: int = 0
    killed: int = 0
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    most_bytes: int = 0
    """Of what is complete and what is being pulled; what was being removed when its process was killed comes on top."""
    trash: int = 0
    """Folders that are left to be removed at the end."""
    failed: int = 0


async def pull(folder: Path, budget: int, uris: list[str]) -> int:
    transfer = Transfer(streams=4, part_bytes=64 * 1024, parts_from_bytes=200 * 1024, first_wait_s=0.01)
    failed = 0
    async with Puller(DiskCache(folder, budget), transfer=transfer, environ=os.environ) as puller:

        async def one(uri: str) -> None:
            nonlocal failed
            try:
                (await puller.pull(parse_location(uri))).release()
            except StorageError as error:
                failed += 1
                sys.stderr.write(f"{error.code.name}: {error}\n")

        await asyncio.gather(*map(one, uris))
    return failed


def size_of(path: Path) -> int:
    """Bytes of content that a file may have on disk; those of a large one that is being written have gaps."""
    if path.is_symlink() or not path.is_file():
        return 0
    about = path.stat()
    return min(about.st_size, about.st_blocks * 512)


def compare(folder: Path, truth: dict[str, bytes], found: Found) -> None:
    """Every complete entry against the truth; all bytes of model files, without the cache's own small ones."""
    taken = sum(size_of(path) for kind in ("entries", "partial") for path in (folder / kind).glob("*/*/**/*"))
    found.most_bytes = max(found.most_bytes, taken)
    for entry in (folder / "entries").glob("*"):
        for path in (entry / "files").rglob("*"):
            if path.is_file():
                found.compared += 1
                if truth.get(path.relative_to(entry / "files").as_posix()) != path.read_bytes():
                    found.wrong.append(str(path))


def main(folder: Path, budget: int, truth_folder: Path, rounds: int, seed: int, uris: list[str]) -> Found:
    rng, found = Random(seed), Found()
    truth = {
        path.relative_to(truth_folder).as_posix(): path.read_bytes()
        for path in truth_folder.rglob("*")
        if path.is_file()
    }
    most_s = LONGEST_S
    for _ in range(rounds):
        chosen = rng.sample(uris, rng.randint(1, 2))
        child = os.fork()
        if child == 0:
            os._exit(min(100, asyncio.run(pull(folder, budget, chosen))))
        time.sleep(rng.uniform(0, most_s))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found.rounds += 1
        compare(folder, truth, found)
        if os.WIFSIGNALED(status):
            found.killed += 1
            most_s = min(LONGEST_S, most_s * 1.25)
        else:
            most_s = max(SHORTEST_S, most_s * 0.8)
            asyncio.run(DiskCache(folder, budget).trim(0))  # the next one has to pull again
    for uri in uris:  # whatever was left: it is continued, or removed
        found.failed += asyncio.run(pull(folder, budget, [uri]))
        compare(folder, truth, found)
    found.trash = len(list((folder / "trash").iterdir()))
    return found


if __name__ == "__main__":
    _, folder, budget, truth, rounds, seed, *uris = sys.argv
    sys.stdout.write(json.dumps(asdict(main(Path(folder), int(budget), Path(truth), int(rounds), int(seed), uris))))
