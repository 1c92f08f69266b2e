"""A control plane for each file of tests that needs one (`real_*.py`)."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from refused import runtime, service

from modelmesh.testing.controlplane.api import Api
from modelmesh.testing.controlplane.plane import ControlPlane, ControlPlaneError


async def nothing() -> str:
    """No further reason."""
    return ""


async def until(
    holds: Callable[[], Awaitable[bool]],
    otherwise: str,
    *,
    within_s: float = 30.0,
    why: Callable[[], Awaitable[str]] = nothing,
) -> None:
    """Wait until something holds; fails with `otherwise`, and what `why` says, if it does not in time."""
    late = time.monotonic() + within_s
    while not await holds():
        assert time.monotonic() < late, f"{otherwise} {await why()}"
        await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """Started in a few seconds, and empty."""
    program = Path(os.environ["CONTROL_PLANE"])
    async with ControlPlane(program, tmp_path_factory.mktemp("plane")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def api(plane: ControlPlane) -> AsyncIterator[Api]:
    """As the administrator."""
    async with plane.api() as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def serving(plane: ControlPlane) -> None:
    """Definitions and policies are there, and work."""
    folder = Path(__file__).parents[2] / "deploy" / "kubernetes" / "serving"
    await plane.kubectl("apply", "--server-side", "-k", str(folder / "crds"))
    await plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    await plane.kubectl("apply", "--server-side", "-k", str(folder / "admission"))
    await until(lambda: _refused(plane), "the policies do not refuse anything")


async def _refused(plane: ControlPlane) -> bool:
    """Policies begin to work some time after they were created, each by itself."""
    for manifest in (runtime(annotations={"autoscalerClass": "magic"}), service({})):
        try:
            await plane.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(manifest))
        except ControlPlaneError:
            continue
        return False
    return True
