"""Calls of a vmodel that its fallback answers while no copy of the wanted model is ready."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from rest_client import Rest, X, mirror
from scripted import WAIT, Instance, Runtime, status_of

from modelmesh.values.dataplane import AttemptFailed, Fail, Missed, Naming, RemoteCopy, Reroute, Route, Serve, Wanted
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status

Make = Callable[..., Instance]
V = (("mm-vmodel-id", "v"),)


def name(one: Instance, **more: Any) -> None:
    one.plane.set_vmodels([("v", Naming("m", fallback=ModelId("small"), **more))])


async def call(one: Instance, *metadata: tuple[str, str]) -> tuple[str | None, Any]:
    """The fallback that is told, and the call."""
    made = one.unary()(b"x", metadata=(*V, *metadata), timeout=WAIT)
    told = dict(await made.initial_metadata())
    assert await made == b"x"
    return told.get("mm-fallback"), made


async def test_a_fallback_answers_until_the_wanted_model_is_ready(one: Instance, runtime: Runtime) -> None:
    name(one)
    one.local("small")
    for _ in range(20):
        assert (await call(one))[0] == "small"
    assert runtime.metadata()["mm-model-id"] == "small"
    wanted = await one.brain.next(Wanted)
    assert (wanted.model, wanted.vmodel, wanted.fallback) == ("m", "v", "small")
    assert one.brain.count(Wanted) < 20, "told once a second"
    assert one.brain.count(Missed) == 0
    one.local("m")
    assert (await call(one))[0] is None
    assert runtime.metadata()["mm-model-id"] == "m"


async def test_a_fallback_elsewhere_answers(make: Make) -> None:
    one, two = make("i1"), make("i2")
    two.local("small")
    one.plane.set_peers([("i2", two.peer_address)])
    one.plane.set_routes([("small", Route(None, (RemoteCopy("i2", 1),)))])
    name(one)
    assert (await call(one))[0] == "small"


async def test_without_a_copy_of_the_fallback_the_call_waits_for_the_wanted_model(one: Instance) -> None:
    name(one)
    made = one.unary()(b"x", metadata=V, timeout=WAIT)
    missed = await one.brain.next(Missed)
    assert missed.model == "m"
    one.local("m")
    one.plane.resolve([(missed.token, Serve())])
    assert await made == b"x"
    assert "mm-fallback" not in dict(await made.initial_metadata())
    assert one.brain.count(Wanted) == 0


async def test_who_chooses_a_version_gets_no_other(one: Instance) -> None:
    name(one)
    one.local("small")
    made = one.unary()(b"x", metadata=(*V, ("mm-version", "stable")), timeout=WAIT)
    assert (await one.brain.next(Missed)).model == "m"
    made.cancel()
    assert one.brain.count(Wanted) == 0


async def test_a_fallback_that_fails_is_tried_once(one: Instance, runtime: Runtime) -> None:
    async def refuse(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "overloaded")
        yield b""

    runtime.script["Echo"] = refuse
    name(one)
    one.local("small")
    made = asyncio.ensure_future(status_of(one.unary()(b"x", metadata=V, timeout=WAIT)))
    failed = await one.brain.next(AttemptFailed)
    assert failed.model == "small"
    one.plane.resolve([(failed.token, Reroute())])
    missed = await one.brain.next(Missed)
    assert missed.model == "m", "now the wanted model is waited for"
    one.plane.resolve([(missed.token, Fail(Status.UNAVAILABLE, "no"))])
    assert await made == (grpc.StatusCode.UNAVAILABLE, "no")


@pytest.fixture
async def rest(make: Make, runtime: Runtime) -> AsyncIterator[Rest]:
    runtime.script["ModelInfer"] = mirror
    one = make(rest="127.0.0.1:0")
    client = Rest(one)
    yield client
    await client.session.close()


async def test_by_rest(rest: Rest) -> None:
    name(rest.instance)
    rest.instance.local("small")
    for fallback in ("small", None):
        status, _, answer = await rest.ask("POST", "/v2/models/v/infer", json={"inputs": [X]})
        assert (status, answer.headers.get("mm-fallback")) == (200, fallback)
        rest.instance.local("m")
