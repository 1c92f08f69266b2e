"""What one decision costs: `make bench-micro`.

Policies are called as the control plane calls them, on clusters and caches of the largest size that we promise. Each is timed in
batches, in turns with the others; the fastest batch says what the work costs, the median what it costs on this machine now.

Then a million generated messages go through the code that reads and writes ids in them, each judged by a real protobuf parser.
"""

import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from modelmesh.control.copies.usage import Learned, UsageBook
from modelmesh.machines.retention import Retention
from modelmesh.policy.attempt import Journey, LastFailure, next_step
from modelmesh.policy.placement import choose_instance
from modelmesh.policy.victims import HeldCopy, choose_victims
from modelmesh.values.dataplane import Outcome, Usage
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Revision
from modelmesh.values.memory import GIB, Memory
from modelmesh.values.records import CopyState, MemberRecord
from modelmesh.values.status import Status
from modelmesh.values.view import ClusterView, Copy, InstanceView, ModelView

RESULTS = Path(__file__).parents[1] / "results"
ROUNDS = 25
BATCH_S = 0.02
NOW_MS = 1_700_000_000_000
COPIES = 100_000
FUZZED = 1_000_000
FUZZ = ("cargo", "test", "-q", "--locked", "-p", "modelmesh-core", "--lib")


@dataclass(frozen=True)
class Case:
    """One decision. `must_us`: what it may cost, microseconds; None: shown only."""

    name: str
    must_us: float | None
    call: Callable[[], object]


def cluster(instances: int, *, full: bool, rng: Random) -> ClusterView:
    """Instances of one kind, in different states."""
    views = []
    for number in range(instances):
        capacity = 64 * GIB
        used = capacity if full else rng.randrange(capacity)
        record = MemberRecord(
            address=f"10.0.{number // 256}.{number % 256}:8080",
            capacity=Memory(capacity),
            used=Memory(used),
            reserve=Memory(GIB),
            default_size=Memory(GIB),
            copies=rng.randrange(20, 60),
            next_victim_use_ms=NOW_MS - rng.randrange(1, 7_200_000),
            loading_slots=4,
            loads=rng.randrange(6),
            backlog_ms=rng.randrange(20_000),
            load_ms=4_000,
            worth=rng.randrange(20_000),
            busyness=rng.randrange(500),
        )
        views.append(InstanceView(InstanceId(f"instance-{number:04}"), record))
    return ClusterView(InstanceId("instance-0000"), Revision(1), tuple(views))


def copies(*instances: int, ready: bool = True) -> ModelView:
    """A model with copies at these instances."""
    state = CopyState.LOADED if ready else CopyState.LOADING
    return ModelView(
        ModelId("m"),
        tuple(
            Copy(
                InstanceId(f"instance-{at:04}"), state, 0, LoadId(1), Memory(GIB), Revision(1), Revision(1), Revision(1)
            )
            for at in instances
        ),
    )


def placements(rng: Random) -> Iterator[Case]:
    """Where to load, among 1,000 instances."""
    for name, full in (("with room", False), ("all full", True)):
        view = cluster(1000, full=full, rng=rng)
        exclude = frozenset((InstanceId("instance-0007"),))

        def place(view: ClusterView = view, exclude: frozenset[InstanceId] = exclude) -> object:
            return choose_instance(view, size=Memory(GIB), exclude=exclude, rng=rng)

        yield Case(f"placement, 1,000 instances {name}", 250, place)


def attempts(rng: Random) -> Iterator[Case]:
    """What is next for a request whose model has copies, in a cluster of 1,000; placement is counted above."""
    view = cluster(1000, full=False, rng=rng)
    failed = Journey().failed(
        LastFailure(InstanceId("instance-0500"), Outcome.NOT_HERE, Status.UNAVAILABLE, "gone"), LoadId(1)
    )
    for name, model, journey in (
        ("a ready copy elsewhere", copies(900), Journey()),
        ("the second of two copies after a failure", copies(500, 999), failed),
        ("a load to join", copies(700, ready=False), Journey()),
    ):

        def decide(model: ModelView = model, journey: Journey = journey) -> object:
            return next_step(journey, model, view, size=Memory(GIB), now_ms=NOW_MS, failure_window_ms=450_000, rng=rng)

        yield Case(f"attempt, {name}", 20, decide)


def evictions() -> Iterator[Case]:
    """Which copy leaves, of 100,000, by the order that is kept as they are used."""
    for name in ("adaptive", "lru"):
        book = UsageBook(Learned(), Retention(COPIES * GIB) if name == "adaptive" else None)
        for number in range(COPIES):
            book.add(ModelId(f"m{number}"), LoadId(number), NOW_MS - COPIES + number, Memory(GIB), missed=False)

        def held(book: UsageBook = book) -> Iterator[HeldCopy]:
            for model in book.leaving_order():
                yield HeldCopy(
                    model, LoadId(1), Memory(GIB), book.last_use_ms(model), book.busy(model), redundant=False
                )

        def choose(held: Callable[[], Iterator[HeldCopy]] = held) -> object:
            return choose_victims(held(), need=Memory(GIB))

        uses = itertools.count()

        def use(book: UsageBook = book, uses: "itertools.count[int]" = uses) -> object:
            number = next(uses)
            batch = [Usage(ModelId(f"m{number * 7919 % COPIES}"), NOW_MS + number, 1, 1000, 0, 0)]
            return book.apply(batch, NOW_MS + number, lambda _: Memory(GIB))

        yield Case(f"eviction, 100,000 copies, {name}", 50, choose)
        yield Case(f"one use noted among 100,000 copies, {name}", None, use)


def measure(cases: list[Case]) -> dict[str, list[float]]:
    """Microseconds of a call, per batch."""
    batches = {}
    for case in cases:
        began, calls = time.perf_counter(), 0
        while time.perf_counter() - began < BATCH_S:
            case.call()
            calls += 1
        batches[case.name] = max(1, calls)
    spent: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(ROUNDS):
        for case in cases:
            began = time.perf_counter()
            for _ in range(batches[case.name]):
                case.call()
            spent[case.name].append((time.perf_counter() - began) / batches[case.name] * 1e6)
    return spent


def fuzz() -> dict[str, Any]:
    """Run the properties of ids in messages on generated bytes: cases, cases a second, and whether all held."""
    root = RESULTS.parents[1]
    subprocess.run([*FUZZ, "--no-run"], check=True, cwd=root)
    listed = subprocess.run(
        [*FUZZ, "splice::fuzz", "--", "--list"], check=True, cwd=root, capture_output=True, text=True
    )
    properties = len(re.findall(r": test$", listed.stdout, re.MULTILINE))
    each = -(-FUZZED // properties)
    began = time.perf_counter()
    done = subprocess.run(
        [*FUZZ, "splice::fuzz"], check=False, cwd=root, env={**os.environ, "PROPTEST_CASES": str(each)}
    )
    cases = each * properties
    return {"cases": cases, "cases_per_s": round(cases / (time.perf_counter() - began)), "ok": done.returncode == 0}


def render(result: dict[str, Any]) -> Iterator[str]:
    """The page of a result, line by line."""
    environment = result["environment"]
    yield "# What one decision costs"
    yield ""
    yield "Rendered from `micro.json` by `make bench-micro`; not edited by hand."
    yield ""
    yield f"{environment['date']}, {environment['machine']}, Python {environment['python']}. Microseconds a call: the fastest"
    yield f"and the median of {ROUNDS} batches. The median also counts what other programs take of the machine."
    yield ""
    yield "| decision | must be below | best | median | ok |"
    yield "|---|---|---|---|---|"
    for row in result["rows"]:
        must = row["must_us"]
        ok = "shown only" if must is None else "yes" if row["best_us"] < must else "**no**"
        yield f"| {row['decision']} | {'' if must is None else must} | {row['best_us']} | {row['median_us']} | {ok} |"
    yield ""
    yield "Keeping the eviction order costs what *one use noted* says: once per copy used, each time the data plane is asked"
    yield "(about once a second), not per request."
    yield ""
    fuzzed = result["fuzzed"]
    held = "every property held" if fuzzed["ok"] else "**a property did not hold**"
    yield f"Ids in messages: {fuzzed['cases']:,} generated cases judged by a protobuf parser, {fuzzed['cases_per_s']:,} a second; {held}."


def main() -> int:
    """Measure, print the table, write the results; 1 if something costs too much."""
    rng = Random(1)
    cases = [*placements(rng), *attempts(rng), *evictions()]
    spent = measure(cases)
    print(f"{'decision':58}{'must':>8}{'best':>8}{'median':>8}  ok")
    rows, late = [], 0
    for case in cases:
        best, median = min(spent[case.name]), statistics.median(spent[case.name])
        ok = case.must_us is None or best < case.must_us
        late += not ok
        must = "" if case.must_us is None else f"{case.must_us:.0f}"
        print(
            f"{case.name:58}{must:>8}{best:8.1f}{median:8.1f}  {'' if case.must_us is None else 'yes' if ok else 'NO'}"
        )
        rows.append(
            {"decision": case.name, "must_us": case.must_us, "best_us": round(best, 2), "median_us": round(median, 2)}
        )
    fuzzed = fuzz()
    late += not fuzzed["ok"]
    name = f"ids in messages, {fuzzed['cases']:,} cases judged by a parser"
    print(f"{name:58}{fuzzed['cases_per_s']:>18,} cases/s  {'yes' if fuzzed['ok'] else 'NO'}")
    environment = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    RESULTS.mkdir(exist_ok=True)
    result = {"environment": environment, "rows": rows, "fuzzed": fuzzed}
    (RESULTS / "micro.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "micro.md").write_text("\n".join(render(result)) + "\n")
    summary = {row["decision"]: row["best_us"] for row in rows}
    print(f"micro: {json.dumps({**summary, 'fuzzed cases/s': fuzzed['cases_per_s']})}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
