"""Fixtures: a scripted runtime, and instances that are closed and looked over when the test ends."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from frames import ForgedServer
from scripted import Instance, Runtime

from modelmesh.adapters.dataplane import NativeDataPlane

Make = Callable[..., Instance]


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    runtime = await Runtime().start()
    yield runtime
    await runtime.stop()


@pytest.fixture
async def forged() -> AsyncIterator[ForgedServer]:
    server = await ForgedServer().start()
    yield server
    server.close()


@pytest.fixture
async def make(runtime: Runtime) -> AsyncIterator[Make]:
    instances: list[Instance] = []

    def make(name: str = "i1", channel_options: Any = (), **settings: Any) -> Instance:
        settings = {
            "instance": name,
            "runtime": runtime.address,
            "serving": "127.0.0.1:0",
            "peer": "127.0.0.1:0",
            "threads": 1,
            **settings,
        }
        instances.append(Instance(name, NativeDataPlane(**settings), channel_options))
        return instances[-1]

    yield make
    for instance in instances:
        await instance.close()


@pytest.fixture
async def one(make: Make) -> Instance:
    return make()
