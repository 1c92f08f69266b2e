"""A pull or an eviction that is killed at any moment leaves no file that differs from its source, and the budget holds."""

import asyncio
import json
import os
import sys
from pathlib import Path
from random import Random

import pytest
from aiohttp import web
from doubles import Files, Hub, archive, serving

KILLING, EVICTING = (str(Path(__file__).parent / name) for name in ("killing.py", "evicting.py"))
KILLS = int(os.environ.get("KILLS", "12"))
"""Rounds; `make test-storage` has two hundred."""


@pytest.mark.timeout(60 + KILLS)
@pytest.mark.parametrize(("seed", "budget"), [(1, 2_500_000), (2, 80_000_000)])
async def test_no_kill_leaves_a_wrong_file_and_the_budget_holds(tmp_path: Path, seed: int, budget: int) -> None:
    """With the first budget half of the files must leave for the others; unpacking an archive asks for room beforehand."""
    rng = Random(seed)
    large = {f"large-{number}.bin": rng.randbytes(1_500_000) for number in range(2)}
    many = {f"many/{number}.bin": rng.randbytes(20_000) for number in range(25)}
    packed = {f"packed/{number}.bin": rng.randbytes(300_000) for number in range(3)}
    truth = tmp_path / "truth"
    for name, content in {**large, **many, **packed}.items():
        (truth / name).parent.mkdir(parents=True, exist_ok=True)
        (truth / name).write_bytes(content)

    async def slowly(_request: web.Request) -> None:
        await asyncio.sleep(rng.uniform(0, 0.02))

    served = Files({f"/{name}": content for name, content in large.items()} | {"/p.tar.gz": archive(packed)})
    served.faults.append(slowly)
    hub = Hub({"org/repo": {"main": many}}, page=100)
    async with serving(served) as url, serving(hub) as hub_url:
        environ = {**os.environ, "HF_ENDPOINT": hub_url}
        uris = [*(f"{url}/{name}" for name in large), "hf://org/repo"]
        uris += [f"{url}/p.tar.gz"] if budget > 64 * 1024 * 1024 else []
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, KILLING, str(tmp_path / "cache"), str(budget), str(truth), str(KILLS // 2), str(seed)),
            *uris,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
        )
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    found = json.loads(out)
    assert found["wrong"] == []
    assert found["failed"] == 0, err.decode()[-2000:]
    assert found["killed"] >= KILLS // 8, found
    assert found["compared"] > 0
    assert found["most_bytes"] <= budget, found
    assert found["trash"] == 0, found


@pytest.mark.timeout(60 + KILLS)
async def test_no_killed_eviction_leaves_a_wrong_file_and_the_budget_holds(tmp_path: Path) -> None:
    """Another process uses the same folder meanwhile, and takes no harm."""
    budget = 500_000
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, EVICTING, str(tmp_path / "cache"), str(budget), str(KILLS), "1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    found = json.loads(out)
    assert found["wrong"] == []
    assert found["failed"] == 0, err.decode()[-2000:]
    assert found["killed"] >= KILLS // 4, found
    assert found["compared"] > 0
    assert found["most_bytes"] <= budget, found
    assert found["trash"] == 0, found
