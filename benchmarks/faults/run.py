"""What callers notice when instances leave, die, are cut off, and the store misbehaves: `make faults`.

Each scenario has a cluster of its own: three instances with echo runtimes that load at once, a real etcd,
eight closed-loop callers. `calls` and `failed` count the calls of which the row says that none may fail.
"""

import argparse
import asyncio
import json
import platform
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.faults.callers import Callers, Seen, one_call, until_ok
from benchmarks.faults.fleet import KEYS, Fleet, generator, running

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.values.ids import InstanceId

RESULTS = Path(__file__).parents[1] / "results" / "faults.json"
HOT = [f"m-{number}" for number in range(200)]
LEASE_S = 10.0
PACE_S = 0.002
"""What callers wait after a call where no model may become hot: 8 of them make about 3,000 calls a second then."""


@dataclass
class Row:
    """What a scenario showed, and what it must show."""

    calls: int = 0
    failed: int = 0
    worst_ms: float = 0.0
    recovered_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    """What must hold and did not."""
    statuses: dict[str, int] = field(default_factory=dict)

    def count(self, *groups: Seen) -> None:
        """Take over what callers saw that must not fail."""
        for seen in groups:
            self.calls += seen.calls
            self.failed += seen.failed
            self.worst_ms = round(max(self.worst_ms, seen.worst_ms), 1)
            for status, count in seen.statuses.items():
                self.statuses[status] = self.statuses.get(status, 0) + count
        self.must(self.failed == 0, f"{self.failed} calls failed")
        self.must(self.calls > 0, "no call was made")

    def must(self, holds: bool, what: str) -> None:  # noqa: FBT001 - a truth and its opposite in words
        """Note what does not hold."""
        if not holds:
            self.broken.append(what)


async def eventually(condition: Callable[[], Awaitable[bool]], *, within_s: float) -> float | None:
    """Seconds until a condition holds; None if it does not."""
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        if await condition():
            return round(time.monotonic() - began, 2)
        await asyncio.sleep(0.05)
    return None


async def warm(fleet: Fleet, models: list[str] = HOT) -> None:
    """Load the models and use each once."""
    await fleet.register(models)
    for number, model in enumerate(models):
        status, _ = await one_call(fleet.endpoints[number % 3], model)
        assert status == "OK", (model, status)


async def drain_one() -> Row:
    """SIGTERM one of three."""
    row = Row()
    async with running() as fleet:
        await warm(fleet)
        callers = Callers(HOT, single=fleet.endpoints[:2], every=fleet.endpoints)
        await callers.start()
        await asyncio.sleep(2)
        callers.forget()
        leaving = fleet.instances[2].mesh
        assert leaving is not None
        began = time.monotonic()
        leaving.signal(signal.SIGTERM)
        await asyncio.wait_for(leaving.wait(), 60)
        row.recovered_s = round(time.monotonic() - began, 2)
        await asyncio.sleep(2)
        await callers.stop()
        row.count(callers.single, callers.every)
        row.must(row.worst_ms < 100, f"the worst call took {row.worst_ms} ms, not under 100")
        left = [model for model, at in (await fleet.copies()).items() if "instance-3" in at]
        row.must(not left, f"{len(left)} keys of the one that left stand")
    return row


async def kill_one() -> Row:
    """SIGKILL one of three."""
    row = Row()
    async with running() as fleet:
        await warm(fleet)
        callers = Callers(HOT, single=fleet.endpoints[:2], every=[])
        await callers.start()
        await asyncio.sleep(2)
        callers.forget()
        dying = fleet.instances[2].mesh
        assert dying is not None
        dying.signal(signal.SIGKILL)

        async def gone() -> bool:
            return not any("instance-3" in at for at in (await fleet.copies()).values())

        recovered = await eventually(gone, within_s=30)
        row.recovered_s = 30.0 if recovered is None else recovered
        row.must(recovered is not None and recovered <= LEASE_S + 2, "its keys outlived its lease")
        await asyncio.sleep(2)
        await callers.stop()
        row.count(callers.single)
        row.must(row.worst_ms < 250, f"the worst call took {row.worst_ms} ms, not under 250")
        fleet.instances[2].mesh = None
    return row


async def rolling_restart() -> Row:
    """Stop and start each in turn."""
    row = Row()
    async with running() as fleet:
        await warm(fleet)
        callers = Callers(HOT, single=[], every=fleet.endpoints)
        await callers.start()
        await asyncio.sleep(1)
        callers.forget()
        began = time.monotonic()
        for instance in fleet.instances:
            assert instance.mesh is not None
            instance.mesh.signal(signal.SIGTERM)
            await asyncio.wait_for(instance.mesh.wait(), 60)
            await fleet.cluster.start_mesh(instance)
            await fleet.cluster.wait_ready(instance)
            await asyncio.sleep(1)
        row.recovered_s = round(time.monotonic() - began, 2)
        await asyncio.sleep(1)
        await callers.stop()
        row.count(callers.every)
    return row


async def _store_away(
    row: Row, fleet: Fleet, away: Callable[[], None], back: Callable[[], None], away_s: float
) -> None:
    await warm(fleet)
    cold = [f"cold-{number}" for number in range(3)]
    for model in cold:
        request = pb.RegisterModelRequest(modelId=model, modelInfo=pb.ModelInfo(type="echo"))
        await fleet.call(0, "mmesh.ModelMesh/registerModel", request, pb.ModelStatusInfo)
    # Slow enough that no model is hot: what is loaded then is loaded because of the outage.
    callers = Callers(HOT, single=fleet.endpoints[:2], every=fleet.endpoints, pause_s=PACE_S)
    await callers.start()
    await asyncio.sleep(1)
    loads = fleet.loads()
    callers.forget()
    away()
    await asyncio.sleep(3)
    for _ in range(3):
        status, seconds = await one_call(fleet.endpoints[0], cold[0], timeout_s=10)
        row.must(status == "UNAVAILABLE", f"a cold call during the outage was {status}")
        row.must(seconds < 1.0, f"it took {seconds:.1f} s")
        await asyncio.sleep(1)
    await asyncio.sleep(max(0.0, away_s - 8))
    back()
    row.recovered_s = round(await until_ok(fleet.endpoints[1], cold[1], within_s=20), 2)
    row.must(row.recovered_s <= 5, f"cold calls worked only {row.recovered_s} s after")
    await asyncio.sleep(12)  # a lease, in which what was lost would show
    await callers.stop()
    row.count(callers.single, callers.every)
    reloads = fleet.loads() - loads - 2
    row.must(reloads <= 5, f"{reloads} models were loaded again")
    held = await fleet.copies()
    missing = [model for model in HOT if model not in held]
    row.must(not missing, f"the copies of {len(missing)} models are not in the store")
    failed = await fleet.failed_models()
    row.must(not failed, f"models were marked failed: {failed[:3]}")


async def store_paused() -> Row:
    """SIGSTOP etcd for a minute, longer than the leases."""
    row = Row()
    async with running() as fleet:
        await _store_away(row, fleet, fleet.etcd.pause, fleet.etcd.resume, 60)
    return row


async def store_restarted() -> Row:
    """Kill etcd, and start it with its data a minute later."""
    row = Row()
    async with running() as fleet:
        await _store_away(row, fleet, fleet.etcd.kill, fleet.etcd.start, 60)
    return row


async def store_emptied() -> Row:
    """Delete every key."""
    row = Row()
    async with running() as fleet:
        await warm(fleet)
        callers = Callers(HOT, single=fleet.endpoints[:2], every=fleet.endpoints, pause_s=PACE_S)
        await callers.start()
        await asyncio.sleep(1)
        loads = fleet.loads()
        callers.forget()
        await fleet.empty_store()

        async def back() -> bool:
            held = await fleet.copies()
            registered = len((await fleet.store.range(KEYS.registry)).items)
            return all(model in held for model in HOT) and registered == len(HOT)

        recovered = await eventually(back, within_s=30)
        row.recovered_s = 30.0 if recovered is None else recovered
        row.must(recovered is not None, "copies and records were not put back")
        await asyncio.sleep(3)
        await callers.stop()
        row.count(callers.single, callers.every)
        row.must(fleet.loads() == loads, f"{fleet.loads() - loads} models were loaded again")
        row.must("store_replaced" in fleet.words(0), "the event is not in the log")
    return row


async def cut_off() -> Row:
    """Separate one of three from the others and from etcd for 40 s."""
    row = Row()
    async with running(separable=True) as fleet:
        await warm(fleet)
        held = [model for model, at in (await fleet.copies()).items() if at == ["instance-3"]]
        # Slow enough that no model is hot: what has two copies afterwards has them because of the cut.
        callers = Callers(HOT, single=fleet.endpoints[:2], every=[], pause_s=0.02)
        alone = Callers(held[:20], single=fleet.endpoints[2:], every=[], pause_s=0.02)
        await callers.start()
        await alone.start()
        await asyncio.sleep(1)
        callers.forget()
        alone.forget()
        assert fleet.shim is not None
        fleet.shim.separate("instance-3", ["instance-1", "instance-2", "etcd"])
        await asyncio.sleep(40)
        fleet.shim.heal()
        row.count(callers.single, alone.single)
        row.must(callers.single.worst_ms < 6000, f"the worst call took {callers.single.worst_ms:.0f} ms")

        async def single_copies() -> bool:
            copies = await fleet.copies()
            return all(len(at) == 1 for at in copies.values()) and len(copies) == len(HOT)

        async def rejoined() -> bool:
            return await fleet.store.get(KEYS.member(InstanceId("instance-3"))) is not None

        # What it holds is doubled only once its keys stand again, so one look at a good moment says nothing.
        began = time.monotonic()
        back = await eventually(rejoined, within_s=30)
        row.must(back is not None, "the one cut off did not join again")
        while time.monotonic() - began < (back or 0.0) + 15:
            if not await single_copies():
                row.recovered_s = round(time.monotonic() - began, 2)
            await asyncio.sleep(0.1)
        row.must(row.recovered_s - (back or 0.0) <= 10, "copies above the wanted number stood for over 10 s")
        await callers.stop()
        await alone.stop()
        row.calls = row.failed = 0
        row.broken = [what for what in row.broken if not what.endswith("calls failed")]
        row.count(callers.single, alone.single)
        for instance in fleet.instances:
            log = (fleet.cluster.logs / f"{instance.name}.log").read_text(errors="replace")
            row.must("already loaded" not in log, f"{instance.name} loaded a model twice")
    return row


async def runtime_killed() -> Row:
    """SIGKILL a runtime, and start it again five seconds later."""
    row = Row()
    async with running() as fleet:
        await warm(fleet)
        callers = Callers(HOT, single=fleet.endpoints[:2], every=fleet.endpoints)
        await callers.start()
        await asyncio.sleep(1)
        callers.forget()
        victim = fleet.instances[2]
        assert victim.runtime is not None
        victim.runtime.signal(signal.SIGKILL)
        await victim.runtime.wait()
        await asyncio.sleep(5)
        began = time.monotonic()
        await fleet.cluster.start_runtime(victim)
        await fleet.cluster.wait_ready(victim)
        row.recovered_s = round(time.monotonic() - began, 2)
        await asyncio.sleep(2)
        await callers.stop()
        row.count(callers.single, callers.every)
        failed = await fleet.failed_models()
        row.must(not failed, f"models were marked failed: {failed[:3]}")
    return row


async def ramp() -> Row:
    """One model, from one to 2,000 calls a second."""
    row = Row()
    async with running() as fleet:
        await warm(fleet, ["m-0"])
        targets = [argument for endpoint in fleet.endpoints for argument in ("--target", endpoint)]
        shape = ["--connections", "3", "--model", "m-0", "--warmup", "0"]
        await generator(*targets, *shape, "--rate", "1", "--seconds", "2")
        began = time.monotonic()
        load = asyncio.create_task(generator(*targets, *shape, "--rate", "2000", "--seconds", "8"))

        async def three() -> bool:
            return len(await fleet.holders("m-0")) == 3

        recovered = await eventually(three, within_s=8)
        row.recovered_s = round(time.monotonic() - began, 2) if recovered is not None else 8.0
        row.must(recovered is not None and row.recovered_s <= 5, "no three copies within 5 s")
        _take(row, await load)
    return row


async def vmodel_move() -> Row:
    """Move a vmodel while it is called 500 times a second; its model has two copies."""
    row = Row()
    async with running() as fleet:
        await warm(fleet, ["m-0"])
        set_to = pb.SetVModelRequest(vModelId="v", targetModelId="m-0", sync=True)
        await fleet.call(0, "mmesh.ModelMesh/setVModel", set_to, pb.VModelStatusInfo)
        targets = [argument for endpoint in fleet.endpoints for argument in ("--target", endpoint)]
        shape = ["--connections", "3", "--header", "mm-vmodel-id=v", "--warmup", "0"]
        load = asyncio.create_task(generator(*targets, *shape, "--rate", "500", "--seconds", "14"))

        async def scaled() -> bool:
            return len(await fleet.holders("m-0")) == 3

        row.must(await eventually(scaled, within_s=8) is not None, "the active model did not get three copies")
        began = time.monotonic()
        for target in ("m-1", "m-2"):
            set_to = pb.SetVModelRequest(
                vModelId="v", targetModelId=target, modelInfo=pb.ModelInfo(type="echo"), sync=True
            )
            status = await fleet.call(0, "mmesh.ModelMesh/setVModel", set_to, pb.VModelStatusInfo)
            row.must(status.activeModelId == target, f"the vmodel did not move to {target}")
            holders = await fleet.holders(target)
            row.must(len(holders) == 3, f"{target} had {len(holders)} copies when it became active")
        row.recovered_s = round(time.monotonic() - began, 2)
        _take(row, await load)
    return row


def _take(row: Row, measured: dict[str, object]) -> None:
    """Count what the load generator saw."""
    statuses = measured["statuses"]
    assert isinstance(statuses, dict)
    row.calls = sum(statuses.values())
    row.failed = sum(count for status, count in statuses.items() if status not in {"0", "OK"})
    row.statuses = {status: count for status, count in statuses.items() if status not in {"0", "OK"}}
    latency = measured["latency_us"]
    assert isinstance(latency, dict)
    row.worst_ms = round(latency["max"] / 1000, 1)
    row.must(row.failed == 0, f"{row.failed} calls failed")
    row.must(measured["mismatched"] == 0, "answers were wrong")


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        drain_one,
        kill_one,
        rolling_restart,
        store_paused,
        store_restarted,
        store_emptied,
        cut_off,
        runtime_killed,
        ramp,
        vmodel_move,
    )
}


def main() -> int:
    """Run the scenarios, print the table; 1 if anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], help="only these")
    chosen = parser.parse_args().scenarios or list(SCENARIOS)
    rows: dict[str, Row] = {}
    for name in chosen:
        print(f"{name}: {SCENARIOS[name].__doc__}", flush=True)
        rows[name] = asyncio.run(asyncio.wait_for(SCENARIOS[name](), 180))
        row = rows[name]
        print(
            f"  {'ok    ' if not row.broken else 'BROKEN'} {row.calls} calls, {row.failed} failed, "
            f"worst {row.worst_ms} ms, recovered in {row.recovered_s} s"
        )
        for what in row.broken:
            print(f"         {what}")
        for status, count in row.statuses.items():
            print(f"         {count} x {status}")
    figures = {
        name: {key: getattr(row, key) for key in ("calls", "failed", "worst_ms", "recovered_s")}
        for name, row in rows.items()
    }
    if len(rows) == len(SCENARIOS):
        RESULTS.parent.mkdir(exist_ok=True)
        environment = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
        result = {"environment": environment, "rows": {name: asdict(row) for name, row in rows.items()}}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"faults: {json.dumps(figures)}")
    return 1 if any(row.broken for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
