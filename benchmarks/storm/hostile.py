"""All hostile clients, in a process that gives way: they would be on other machines, and their work is not what is measured."""

import argparse
import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from random import Random

from benchmarks.storm.attacks import ATTACKS, play, silent

AT_A_TIME = 3
"""Attacks under way."""
PAUSE_S = 0.1


Plan = Iterator[tuple[str, int]]
"""Attacks, each with the port that it is for."""


def storm(ports: list[int], rng: Random) -> Plan:
    """Any attack on any port, without end."""
    while True:
        yield rng.choice([*ATTACKS, "silent"]), rng.choice(ports)


def rehearsal(ports: list[int]) -> Plan:
    """Each attack on each port, twice: all that is opened once and kept is open then."""
    return iter([*product([*ATTACKS, "silent"], ports)] * 2)


async def attack(plan: Plan, rng: Random, until: float, counts: Counter[str]) -> None:
    """One attack after the other."""
    for name, port in plan:
        if time.monotonic() >= until:
            return
        with contextlib.suppress(OSError, TimeoutError):
            if name == "silent":
                await silent(port, 100, rng)
            else:
                await play(ATTACKS[name], port, rng)
        counts[name] += 1
        await asyncio.sleep(PAUSE_S)


async def attacks(plan: Plan, seconds: float, seed: int) -> Counter[str]:
    """Several at a time; how often each was played."""
    rng, counts = Random(seed), Counter[str]()
    until = time.monotonic() + seconds
    await asyncio.gather(*(attack(plan, Random(rng.random()), until, counts) for _ in range(AT_A_TIME)))
    return counts


def main() -> None:
    """Attack, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, action="append", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rehearse", action="store_true", help="each attack on each port, twice, and no more")
    arguments = parser.parse_args()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    ports, seed = arguments.port, arguments.seed
    plan = rehearsal(ports) if arguments.rehearse else storm(ports, Random(seed))
    print(json.dumps(asyncio.run(attacks(plan, arguments.seconds, seed))))


if __name__ == "__main__":
    main()
