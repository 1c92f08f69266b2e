"""All hostile clients, in a process that gives way: they would be on other machines, and their work is not what is measured."""

import argparse
import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from random import Random

from benchmarks.storm.attacks import ATTACKS, play, silent

AT_A_TIME = 3
"""Attacks under way."""
PAUSE_S = 0.1
LOWEST = 19


async def attack(ports: list[int], rng: Random, until: float, counts: Counter[str]) -> None:
    """One attack after the other."""
    while time.monotonic() < until:
        port = rng.choice(ports)
        name = rng.choice([*ATTACKS, "silent"])
        with contextlib.suppress(OSError, TimeoutError):
            if name == "silent":
                await silent(port, 100, rng)
            else:
                await play(ATTACKS[name], port, rng)
        counts[name] += 1
        await asyncio.sleep(PAUSE_S)


async def attacks(ports: list[int], seconds: float, seed: int) -> Counter[str]:
    """Several at a time; how often each was played."""
    rng, counts = Random(seed), Counter[str]()
    until = time.monotonic() + seconds
    await asyncio.gather(*(attack(ports, Random(rng.random()), until, counts) for _ in range(AT_A_TIME)))
    return counts


def main() -> None:
    """Attack, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, action="append", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    os.nice(LOWEST)
    print(json.dumps(asyncio.run(attacks(arguments.port, arguments.seconds, arguments.seed))))


if __name__ == "__main__":
    main()
