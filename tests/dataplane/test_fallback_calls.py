"""Calls of a vmodel that its fallback answers where the wanted model is cold or fails."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from frames import ForgedServer
from rest_client import Rest, X, mirror
from scripted import WAIT, Handler, Instance, Runtime, status_of, until

from modelmesh.values.dataplane import (
    AttemptFailed,
    Fail,
    MethodRule,
    Missed,
    Naming,
    Outcome,
    RemoteCopy,
    Reroute,
    Route,
    Rules,
    Serve,
    Wanted,
)
from modelmesh.values.ids import ModelId, VModelId
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


async def test_a_call_that_tells_nothing_of_the_fallback_does_not_keep_the_next_one_from_telling(
    one: Instance, runtime: Runtime
) -> None:
    """It is told once a second: each of these calls comes within the second before the one that tells."""
    runtime.script["Bad"] = refusing(grpc.StatusCode.INVALID_ARGUMENT, "m")
    runtime.script["Once"] = refusing(grpc.StatusCode.INTERNAL, "m")
    one.plane.set_rules(Rules((), (), (MethodRule("test.S/Once", idempotent=False),)))
    one.brain.decide = lambda event: Fail(Status.NOT_FOUND, "no") if isinstance(event, Missed) else None
    name(one)
    one.local("m")
    assert (await call(one))[0] is None, "the wanted model is ready"
    for method in ("Bad", "Once"):
        await status_of(one.unary(method)(b"x", metadata=V, timeout=WAIT))
    one.plane.set_routes([("m", None)])
    assert (await status_of(one.unary()(b"x", metadata=V, timeout=WAIT)))[0] is grpc.StatusCode.NOT_FOUND
    one.local("small")
    chosen = one.unary()(b"x", metadata=(*V, ("mm-version", "stable")), timeout=WAIT)
    assert (await status_of(chosen))[0] is grpc.StatusCode.NOT_FOUND
    assert one.brain.count(Wanted) == 0
    assert (await call(one))[0] == "small"
    assert await one.brain.next(Wanted) == Wanted(ModelId("m"), VModelId("v"), ModelId("small"))


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


def refusing(code: grpc.StatusCode, *models: str) -> Handler:
    """A runtime that ends the calls of some models with a code."""

    async def handler(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        if dict(context.invocation_metadata() or ())["mm-model-id"] in models:
            await context.abort(code, "so it was told")
        async for request in requests:
            yield request

    return handler


def called(runtime: Runtime) -> list[str]:
    """The models that were called, in order."""
    return [metadata["mm-model-id"] for _, metadata in runtime.calls]


async def test_if_a_cold_models_fallback_fails_the_model_is_waited_for(one: Instance, runtime: Runtime) -> None:
    runtime.script["Echo"] = refusing(grpc.StatusCode.UNAVAILABLE, "small")
    name(one)
    one.local("small")
    made = asyncio.ensure_future(status_of(one.unary()(b"x", metadata=V, timeout=WAIT)))
    failed = await one.brain.next(AttemptFailed)
    assert failed.model == "small"
    one.plane.resolve([(failed.token, Fail(Status.INTERNAL, "small fails"))])
    missed = await one.brain.next(Missed)
    assert missed.model == "m"
    assert missed.token != failed.token, "it is another call to the control plane"
    one.plane.resolve([(missed.token, Fail(Status.UNAVAILABLE, "no"))])
    assert await made == (grpc.StatusCode.UNAVAILABLE, "no"), "each is tried once"


async def test_of_a_model_that_answers_internal_the_fallback_answers(one: Instance, runtime: Runtime) -> None:
    runtime.script["Echo"] = refusing(grpc.StatusCode.INTERNAL, "m")
    name(one)
    one.local("m")
    one.local("small")
    assert (await call(one))[0] == "small"
    assert called(runtime) == ["m", "small"]
    wanted = await one.brain.next(Wanted)
    assert wanted == Wanted(ModelId("m"), VModelId("v"), ModelId("small"), "INTERNAL: so it was told")
    assert one.brain.count(AttemptFailed) == 0, "another copy would answer the same"
    del runtime.script["Echo"]
    assert (await call(one))[0] is None, "the wanted model is tried first each time"


async def test_of_an_unavailable_model_the_fallback_answers_when_no_copy_is_left(
    one: Instance, runtime: Runtime
) -> None:
    runtime.script["Echo"] = refusing(grpc.StatusCode.UNAVAILABLE, "m")
    name(one)
    one.local("m")
    one.local("small")
    made = asyncio.ensure_future(call(one))
    failed = await one.brain.next(AttemptFailed)
    assert (failed.model, failed.replayable) == ("m", True)
    one.plane.resolve([(failed.token, Fail(Status.INTERNAL, "ModelRuntime UNAVAILABLE: so it was told"))])
    assert (await made)[0] == "small"


@pytest.mark.parametrize("answers", [True, False])
async def test_a_model_that_cannot_be_loaded_lets_the_fallback_be_loaded(
    one: Instance, runtime: Runtime, answers: bool
) -> None:
    name(one)
    made = one.unary()(b"x", metadata=V, timeout=WAIT)
    missed = await one.brain.next(Missed)
    one.plane.resolve([(missed.token, Fail(Status.INTERNAL, "m cannot be loaded"))])
    second = await one.brain.next(Missed)
    assert (second.model, second.vmodel) == ("small", "v")
    if answers:
        one.local("small")
        one.plane.resolve([(second.token, Serve())])
        assert await made == b"x"
        assert dict(await made.initial_metadata())["mm-fallback"] == "small"
        return
    one.plane.resolve([(second.token, Reroute())])  # its record is gone, say
    third = await one.brain.next(Missed)
    assert third.model == "small", "the wanted model is not tried again"
    one.plane.resolve([(third.token, Fail(Status.UNAVAILABLE, "small neither"))])
    assert await status_of(made) == (grpc.StatusCode.INTERNAL, "m cannot be loaded")
    assert "mm-fallback" not in dict(await made.trailing_metadata())


async def test_if_both_fail_the_caller_gets_the_answer_of_the_wanted_model(one: Instance, runtime: Runtime) -> None:
    async def refuse(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        model = dict(context.invocation_metadata() or ())["mm-model-id"]
        await context.abort(grpc.StatusCode.INTERNAL, f"{model} fails", (("whose", str(model)),))
        yield b""

    runtime.script["Echo"] = refuse
    name(one)
    one.local("m")
    one.local("small")
    made = one.unary()(b"x", metadata=V, timeout=WAIT)
    assert await status_of(made) == (grpc.StatusCode.INTERNAL, "m fails")
    told = dict(await made.trailing_metadata())
    assert told["whose"] == "m"
    assert "mm-fallback" not in told
    assert called(runtime) == ["m", "small"]


async def test_an_error_that_only_the_fallback_has_says_whose_it_is(one: Instance, runtime: Runtime) -> None:
    runtime.script["Echo"] = refusing(grpc.StatusCode.INVALID_ARGUMENT, "small")
    name(one)
    one.local("small")
    made = one.unary()(b"x", metadata=V, timeout=WAIT)
    assert await status_of(made) == (grpc.StatusCode.INVALID_ARGUMENT, "so it was told")
    assert "small" in {*dict(await made.initial_metadata()).values(), *dict(await made.trailing_metadata()).values()}


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION])
async def test_an_answer_about_the_call_is_the_callers(one: Instance, runtime: Runtime, code: grpc.StatusCode) -> None:
    runtime.script["Echo"] = refusing(code, "m")
    name(one)
    one.local("m")
    one.local("small")
    assert await status_of(one.unary()(b"x", metadata=V, timeout=WAIT)) == (code, "so it was told")
    assert called(runtime) == ["m"]


async def test_a_method_that_may_not_be_repeated_is_not(one: Instance, runtime: Runtime) -> None:
    one.plane.set_rules(Rules((), (), (MethodRule("test.S/Echo", idempotent=False),)))
    runtime.script["Echo"] = refusing(grpc.StatusCode.INTERNAL, "m")
    name(one)
    one.local("m")
    one.local("small")
    assert (await status_of(one.unary()(b"x", metadata=V, timeout=WAIT)))[0] is grpc.StatusCode.INTERNAL
    assert called(runtime) == ["m"]


async def test_an_answer_that_has_begun_is_not_repeated(one: Instance, runtime: Runtime) -> None:
    async def half(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield b"one half"
        await context.abort(grpc.StatusCode.INTERNAL, "and no more")

    runtime.script["Echo"] = half
    name(one)
    one.local("m")
    one.local("small")
    made = one.stream()(iter([b"x"]), metadata=V, timeout=WAIT)
    assert await made.read() == b"one half"
    assert await status_of(made.read()) == (grpc.StatusCode.INTERNAL, "and no more")
    assert called(runtime) == ["m"]


async def test_who_chooses_a_version_gets_its_error(one: Instance, runtime: Runtime) -> None:
    runtime.script["Echo"] = refusing(grpc.StatusCode.INTERNAL, "m")
    name(one)
    one.local("m")
    one.local("small")
    metadata = (*V, ("mm-version", "stable"))
    assert (await status_of(one.unary()(b"x", metadata=metadata, timeout=WAIT)))[0] is grpc.StatusCode.INTERNAL
    assert called(runtime) == ["m"]


async def test_a_call_under_which_a_runtime_ended_goes_to_no_other_model(make: Make) -> None:
    runtime = await ForgedServer(lambda connection, event: None).start()
    one = make(runtime=runtime.address)
    name(one)
    one.local("m")
    one.local("small")
    made = asyncio.ensure_future(status_of(one.unary()(b"x", metadata=V, timeout=WAIT)))
    await until(lambda: runtime.requests() == 1)
    runtime.drop()
    failed = await one.brain.next(AttemptFailed)
    assert (failed.outcome, failed.begun) == (Outcome.LOST, True)
    one.plane.resolve([(failed.token, Fail(Status.INTERNAL, "it ended runtimes"))])
    assert await made == (grpc.StatusCode.INTERNAL, "it ended runtimes")
    assert runtime.requests() == 1
    runtime.close()


async def test_what_a_failing_model_answers_counts_in_a_rollout(one: Instance, runtime: Runtime) -> None:
    runtime.script["Echo"] = refusing(grpc.StatusCode.INTERNAL, "new")
    one.plane.set_vmodels([("v", Naming("m", (("new", 100),), fallback=ModelId("m"), trial=5))])
    one.local("m")
    one.local("new")
    for _ in range(3):
        assert (await call(one))[0] == "m"
    found = one.plane.tallies_of(VModelId("v"))
    assert found is not None
    assert [(counts.model, counts.calls, counts.failed) for counts in found[1]] == [("m", 0, 0), ("new", 3, 3)]


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


async def test_by_rest_a_model_that_fails(rest: Rest, runtime: Runtime) -> None:
    async def mirror_but_m(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        if dict(context.invocation_metadata() or ())["mm-model-id"] == "m":
            await context.abort(grpc.StatusCode.INTERNAL, "so it was told")
        async for answer in mirror(requests, context):
            yield answer

    runtime.script["ModelInfer"] = mirror_but_m
    name(rest.instance)
    rest.instance.local("m")
    rest.instance.local("small")
    status, _, answer = await rest.ask("POST", "/v2/models/v/infer", json={"inputs": [X]})
    assert (status, answer.headers.get("mm-fallback")) == (200, "small")


@pytest.mark.parametrize("begun", [False, True])
async def test_by_rest_an_error_that_only_the_fallback_has_says_whose_it_is(
    rest: Rest, runtime: Runtime, begun: bool
) -> None:
    async def refuse(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        model = dict(context.invocation_metadata() or ())["mm-model-id"]
        if begun:
            await context.send_initial_metadata(())
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{model} refuses")
        yield b""

    runtime.script["ModelInfer"] = refuse
    runtime.script["ModelMetadata"] = refuse
    name(rest.instance)
    for loaded, fallback in (("small", "small"), ("m", None)):
        rest.instance.local(loaded)
        for path, body in (("infer", {"inputs": [X]}), ("generate", {"text_input": "x"})):
            status, told, answer = await rest.ask("POST", f"/v2/models/v/{path}", json=body)
            assert (status, told) == (400, {"error": f"{loaded} refuses"})
            assert answer.headers.get("mm-fallback") == fallback


async def test_calls_of_the_fallback_are_counted_by_reason(one: Instance, runtime: Runtime) -> None:
    runtime.script["Echo"] = refusing(grpc.StatusCode.INTERNAL, "m")
    name(one)
    one.local("small")
    await call(one)
    one.local("m")
    for _ in range(2):
        await call(one)
    told = one.plane.metrics(names=["modelmesh_fallback_calls_total"]).decode().splitlines()
    counted = [line for line in told if not line.startswith("#")]
    assert counted == [
        'modelmesh_fallback_calls_total{reason="cold"} 1',
        'modelmesh_fallback_calls_total{reason="failed"} 2',
    ]
