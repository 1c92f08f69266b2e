"""Many seeds of `modelmesh.testing.simulation`, in two processes: `python -m modelmesh.testing.campaign --seeds 500`.

A failing seed prints the end of its story and the command that repeats it. The first seeds are played again in a process
with another hash seed, and their stories compared: nothing may depend on the order of a set.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from modelmesh.testing.simulation import Outcome, simulate

STORY_LINES = 40
REPEATED_SEEDS = 20
PROCESSES = 2
REPORT_EVERY_S = 10.0
OTHER_HASH_SEED = "4711"


@dataclass(frozen=True, slots=True)
class Summary:
    """An outcome without its story."""

    seed: int
    steps: int
    virtual_ms: int
    calls: dict[str, int]
    faults: tuple[str, ...]
    digest: str
    problem: str
    end: tuple[str, ...]


def play(seed: int) -> Summary:
    """One seed, in whatever process."""
    outcome = simulate(seed)
    end = tuple(outcome.lines()[-STORY_LINES:]) if outcome.problem else ()
    return Summary(
        seed,
        outcome.steps,
        outcome.virtual_ms,
        dict(outcome.calls),
        tuple(outcome.faults),
        outcome.digest,
        outcome.problem,
        end,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run seeds; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="run only this seed, and show its story")
    parser.add_argument("--digests", action="store_true", help="print only what each story comes to")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return _one(given.seed)
    seeds = range(given.first, given.first + given.seeds)
    with ProcessPoolExecutor(PROCESSES) as pool:
        if given.digests:
            _say(json.dumps({summary.seed: summary.digest for summary in pool.map(play, seeds)}))
            return 0
        summaries = list(_reported(pool.map(play, seeds), len(seeds)))
    violations = sum(bool(summary.problem) for summary in summaries)
    violations += _play_again({summary.seed: summary.digest for summary in summaries[:REPEATED_SEEDS]}, given.first)
    faults = Counter(kind for summary in summaries for kind in summary.faults)
    line = {
        "seeds": len(summaries),
        "steps": sum(summary.steps for summary in summaries),
        "violations": violations,
        "virtual_hours": round(sum(summary.virtual_ms for summary in summaries) / 3_600_000, 2),
        "faults": dict(sorted(faults.items())),
    }
    _say(f"sim: {json.dumps(line)}")
    return 1 if violations else 0


def _one(seed: int) -> int:
    outcome = simulate(seed)
    for line in outcome.lines():
        _say(line)
    _say(_calls(outcome))
    if outcome.problem:
        _say(f"problem: {outcome.problem}")
    return 1 if outcome.problem else 0


def _reported(summaries: Iterator[Summary], total: int) -> Iterator[Summary]:
    """Say how far it is, and what failed, while it runs."""
    began = reported = time.monotonic()
    bad = 0
    for number, summary in enumerate(summaries, 1):
        if summary.problem:
            bad += 1
            _say("\n".join(summary.end))
            _say(f"seed={summary.seed} calls={summary.calls} faults={sorted(summary.faults)}")
            _say(f"problem: {summary.problem}\nrepeat: make sim SEED={summary.seed}\n")
        if time.monotonic() - reported >= REPORT_EVERY_S:
            reported = time.monotonic()
            sys.stderr.write(f"{number} of {total} seeds, {bad} failed, {reported - began:.0f} s\n")
        yield summary


def _play_again(digests: dict[int, str], first: int) -> int:
    """Play seeds under another hash seed; returns how many went another way."""
    command = [sys.executable, "-m", "modelmesh.testing.campaign", "--digests"]
    command += ["--first", str(first), "--seeds", str(len(digests))]
    environment = {**os.environ, "PYTHONHASHSEED": OTHER_HASH_SEED}
    done = subprocess.run(  # noqa: S603 - this program again
        command, env=environment, capture_output=True, text=True, check=True
    )
    again = json.loads(done.stdout)
    differing = [seed for seed, digest in digests.items() if again[str(seed)] != digest]
    if differing:
        _say(f"problem: another hash seed changes the story of seeds {differing}")
    return len(differing)


def _calls(outcome: Outcome) -> str:
    return f"seed={outcome.seed} steps={outcome.steps} calls={dict(outcome.calls)} faults={dict(outcome.faults)}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
