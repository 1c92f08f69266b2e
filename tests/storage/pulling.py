"""A process that pulls: `python pulling.py FOLDER BUDGET URI…`; says `ready N` or `failed CODE` for each."""

import asyncio
import sys
from pathlib import Path

from modelmesh.storage import DiskCache, Puller, StorageError, Transfer, parse_location


async def main(folder: Path, budget: int, uris: list[str]) -> None:
    transfer = Transfer(streams=4, part_bytes=64 * 1024, parts_from_bytes=200 * 1024, first_wait_s=0.01)
    async with Puller(DiskCache(folder, budget), transfer=transfer, environ={}) as puller:
        for uri in uris:
            try:
                with await puller.pull(parse_location(uri)) as pulled:
                    sys.stdout.write(f"ready {pulled.size_bytes}\n")
            except StorageError as error:
                sys.stdout.write(f"failed {error.code.name}\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
