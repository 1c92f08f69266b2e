"""Hostile clients, a runtime and an etcd that break their word, and one client that behaves: `make storm`.

Two instances with echo runtimes and a real etcd serve the client that behaves. A third has a runtime, and a fourth an
etcd, behind a proxy that breaks their word. All of them, with their runtimes and the etcd, are what is limited: 1,024
descriptors each, and 512 MiB of memory together.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.faults.fleet import ECHO, Fleet, generator
from benchmarks.storm.proxy import EvilProxy, Opened

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.adapters.store import open_store
from modelmesh.instance.local_cluster import LocalCluster, LocalInstance, free_port
from modelmesh.testing.etcd import FaultyEtcd

MEMORY_MB = 512
IDLE_S = 5.0
"""What has been idle for so long is given back."""
SPARE_S = 32.0
"""Spare connections to a neighbour are closed after so long."""
DESCRIPTORS = 1024
REHEARSAL_S = 120.0
"""A storm before the storm, at most: what is opened once and kept for minutes (connections between instances, pools of
memory) is not what a storm leaves behind."""
LATENCY_S = 300.0
"""Latency is judged in storms of at least this length. In a shorter one, a p99 is decided by a few moments."""
VICTIM = ("--models", "8", "--connections", "4", "--rate", "200")
CONSTRAINED = json.dumps({"echo": {"required": ["good"]}, "evil": {"required": ["evil"]}})


@dataclass
class Group:
    """The processes that are limited."""

    cluster: LocalCluster
    peak_mb: float = 0.0
    of_peak: dict[str, float] = field(default_factory=dict)

    def pids(self) -> dict[str, int]:
        """All of them that run."""
        found = {"etcd": self.cluster.etcd.pid if self.cluster.etcd else None}
        for instance in self.cluster.instances:
            for name, child in ((instance.name, instance.mesh), (f"{instance.name}-runtime", instance.runtime)):
                if child is not None and child.running:
                    found[name] = child.pid
        return {name: pid for name, pid in found.items() if pid is not None}

    def memory_mb(self) -> float:
        """What they hold together; what several share counts once."""
        each = {name: proportional_mb(pid) for name, pid in self.pids().items()}
        total = sum(each.values())
        if total > self.peak_mb:
            self.peak_mb, self.of_peak = total, each
        return total

    def descriptors(self) -> int:
        """Those of the instances."""
        instances = [pid for name, pid in self.pids().items() if name.startswith("instance") and "runtime" not in name]
        return sum(1 for pid in instances for _ in Path(f"/proc/{pid}/fd").iterdir())

    async def watch(self) -> None:
        """Look at their memory again and again."""
        while True:
            await asyncio.to_thread(self.memory_mb)
            await asyncio.sleep(0.5)


def proportional_mb(pid: int) -> float:
    """A process's memory, of what it shares its part."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


@dataclass
class Stage:
    """What runs during a storm."""

    group: Group
    proxies: list[EvilProxy]

    async def mend(self, until: float) -> None:
        """Start again what has ended; that anything does is a fault, and told."""
        while time.monotonic() < until:
            await self.group.cluster.mend()
            await asyncio.sleep(1.0)

    async def attacks(self, seconds: float, seed: int, *options: str) -> dict[str, int]:
        """Hostile clients of all instances; how often each attack was played."""
        ports = [word for instance in self.group.cluster.instances for word in ("--port", str(instance.port))]
        command = (
            sys.executable,
            "-m",
            "benchmarks.storm.hostile",
            "--seconds",
            str(seconds),
            "--seed",
            str(seed),
            *options,
        )
        process = await asyncio.create_subprocess_exec(*command, *ports, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        counts: dict[str, int] = json.loads(output)
        return counts


async def storm(seconds: float, seed: int) -> dict[str, Any]:
    """Play it. Returns the last line."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    ends: list[str] = []
    with tempfile.TemporaryDirectory(prefix="modelmesh-storm-", dir="/dev/shm") as text:
        async with contextlib.AsyncExitStack() as stack:
            folder, rng = Path(text), Random(seed)
            etcd = FaultyEtcd(folder / "etcd", durable=False)
            stack.callback(etcd.kill)
            behind, evil_etcd = folder / "behind.sock", free_port()
            own = {
                1: {"MM_LABELS": "good"},
                2: {"MM_LABELS": "good"},
                3: {"MM_LABELS": "evil", "INTERNAL_GRPC_SOCKET_PATH": str(folder / "evil.sock")},
                4: {"KV_STORE": f"etcd:http://127.0.0.1:{evil_etcd}"},
            }
            cluster = LocalCluster(
                2,
                lambda _, listen: [str(ECHO), "--listen", listen],
                folder=folder,
                environment={"MM_TYPE_CONSTRAINTS": CONSTRAINED},
                own_environment=lambda number: own[number],
                etcd=etcd,
                progress=ends.append,
            )
            stack.push_async_callback(cluster.stop)
            await cluster.start()
            ends.clear()

            async def to_runtime() -> Opened:
                return await asyncio.open_unix_connection(str(behind))

            async def to_etcd() -> Opened:
                return await asyncio.open_connection("127.0.0.1", etcd.port)

            proxies = [EvilProxy(to_runtime, rng), EvilProxy(to_etcd, rng)]
            await asyncio.start_unix_server(proxies[0].serve, str(folder / "evil.sock"))
            await asyncio.start_server(proxies[1].serve, "127.0.0.1", evil_etcd)
            for number, socket in ((3, behind), (4, folder / "runtime-4.sock")):
                instance = LocalInstance(f"instance-{number}", free_port(), free_port(), socket)
                cluster.instances.append(instance)
                await cluster.start_runtime(instance)
                await cluster.start_mesh(instance)
                await cluster.wait_ready(instance)
            group = Group(cluster)
            stage = Stage(group, proxies)
            store = await open_store(f"etcd:{etcd.endpoint}")
            stack.push_async_callback(store.close)
            fleet = Fleet(cluster, store)
            for model, kind in [*((f"m-{number}", "echo") for number in range(8)), ("evil", "evil")]:
                info = pb.ModelInfo(type=kind)
                request = pb.RegisterModelRequest(modelId=model, modelInfo=info, loadNow=kind == "echo", sync=True)
                await fleet.call(0, "mmesh.ModelMesh/registerModel", request, pb.ModelStatusInfo)
            for channel in fleet.channels.values():
                await channel.close()
            return await _play(stage, seconds, rng, ends)
    raise AssertionError


async def _play(stage: Stage, seconds: float, rng: Random, ends: list[str]) -> dict[str, Any]:
    group = stage.group
    targets = [word for instance in group.cluster.instances[:2] for word in ("--target", instance.endpoint)]
    everywhere = [word for instance in group.cluster.instances for word in ("--target", instance.endpoint)]
    await generator(*everywhere, *VICTIM, "--seconds", "2")
    await stage.attacks(REHEARSAL_S, rng.randrange(1 << 30), "--rehearse")
    await asyncio.sleep(SPARE_S)
    alone = await generator(*targets, *VICTIM, "--seconds", str(min(10.0, seconds / 4)))
    before_mb, before_descriptors = group.memory_mb(), group.descriptors()
    for proxy in stage.proxies:
        proxy.is_evil = True
    until = time.monotonic() + seconds
    watching = asyncio.create_task(group.watch())
    under, counts, _ = await asyncio.gather(
        generator(*targets, *VICTIM, "--seconds", str(seconds - 1)),
        stage.attacks(seconds, rng.randrange(1 << 30)),
        stage.mend(until),
    )
    for proxy in stage.proxies:
        proxy.is_evil = False
        proxy.hang_up()
    for _ in range(60):
        if group.descriptors() <= before_descriptors + 8:
            break
        await asyncio.sleep(1.0)
    await asyncio.sleep(IDLE_S)
    watching.cancel()
    statuses = under["statuses"]
    failed = sum(count for status, count in statuses.items() if status != "OK") + under["mismatched"]
    evil = sum((proxy.done for proxy in stage.proxies), Counter[str]())
    return {
        "failed": failed,
        "p99_ratio": round(under["latency_us"]["p99"] / alone["latency_us"]["p99"], 2),
        "p99_ms": [round(figures["latency_us"]["p99"] / 1000, 2) for figures in (alone, under)],
        "rss_mb_peak": round(group.peak_mb),
        "rss_mb_before": round(before_mb),
        "rss_mb_after": round(group.memory_mb()),
        "fds_before": before_descriptors,
        "fds_after": group.descriptors(),
        "calls": under["completed"],
        "statuses": statuses,
        "ended": ends,
        "mb_each": {
            "peak": {name: round(mb) for name, mb in group.of_peak.items()},
            "after": {name: round(proportional_mb(pid)) for name, pid in group.pids().items()},
        },
        "attacks": {**counts, **{f"neighbour_{name}": count for name, count in evil.items()}},
    }


def faults(line: dict[str, Any], seconds: float) -> list[str]:
    """What must hold and did not."""
    rules = {
        "calls failed": line["failed"] == 0 and line["calls"] > 0,
        "p99 is more than five times that of alone": line["p99_ratio"] <= 5 or seconds < LATENCY_S,
        f"more than {MEMORY_MB} MiB were held": line["rss_mb_peak"] <= MEMORY_MB,
        "memory did not come back": line["rss_mb_after"] <= line["rss_mb_before"] + 64,
        "descriptors did not come back": line["fds_after"] <= line["fds_before"] + 8,
        "processes ended": not line["ended"],
    }
    return [what for what, holds in rules.items() if not holds]


def main() -> int:
    """Play a storm and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    line = asyncio.run(storm(arguments.seconds, arguments.seed))
    for what in (broken := faults(line, arguments.seconds)):
        print(f"*** {what} ***")
    print("storm: " + json.dumps(line))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
