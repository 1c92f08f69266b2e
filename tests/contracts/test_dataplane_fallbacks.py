"""The fallback of a vmodel, over both data planes."""

import asyncio

from sides import M, Side

from modelmesh.values.dataplane import AttemptFailed, Fail, LocalCopy, Missed, Naming, Route, Wanted
from modelmesh.values.ids import LoadId, ModelId, VModelId
from modelmesh.values.status import Status

S, V = ModelId("small"), VModelId("v")


def with_fallback(side: Side, *ready: ModelId) -> None:
    side.plane.set_vmodels([(V, Naming(M, fallback=S, trial=1))])
    side.plane.set_routes([(model, Route(LocalCopy(LoadId(1), ready=True))) for model in ready])


async def test_the_fallback_answers_for_a_cold_model(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    with_fallback(a, S)
    assert await a.call("v", vmodel=True) == (Status.OK, "", b"hello")
    assert await a.brain.next(Wanted) == Wanted(M, V, S)
    a.fails_next = [Status.INTERNAL]
    call = asyncio.create_task(a.call("v", vmodel=True))
    missed = await a.brain.next(Missed)
    assert missed.model == M, "each is tried once"
    a.plane.resolve([(missed.token, Fail(Status.UNAVAILABLE, "no"))])
    assert await call == (Status.UNAVAILABLE, "no", None)


async def test_the_fallback_answers_for_a_model_that_fails(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    with_fallback(a, M, S)
    a.fails_next = [Status.INTERNAL]
    assert await a.call("v", vmodel=True) == (Status.OK, "", b"hello")
    assert await a.brain.next(Wanted) == Wanted(M, V, S, "INTERNAL: so it was told")
    a.fails_next = [Status.UNAVAILABLE]
    call = asyncio.create_task(a.call("v", vmodel=True))
    failed = await a.brain.next(AttemptFailed)
    assert failed.model == M
    a.plane.resolve([(failed.token, Fail(Status.INTERNAL, "no other copy"))])
    assert await call == (Status.OK, "", b"hello")
    found = a.plane.tallies_of(V)
    assert found is not None
    assert [(one.calls, one.failed) for one in found[1]] == [(2, 2)]


async def test_the_fallback_of_a_model_that_fails_is_loaded(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    with_fallback(a)
    call = asyncio.create_task(a.call("v", vmodel=True))
    for model, why in ((M, "m fails"), (S, "small fails")):
        missed = await a.brain.next(Missed)
        assert missed.model == model
        a.plane.resolve([(missed.token, Fail(Status.INTERNAL, why))])
    assert await call == (Status.INTERNAL, "m fails", None)


async def test_answers_about_the_call_do_not_go_to_the_fallback(pair: tuple[Side, Side]) -> None:
    a, _ = pair
    with_fallback(a, M, S)
    for status in (Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION, Status.UNKNOWN):
        a.fails_next = [status]
        assert (await a.call("v", vmodel=True))[0] is status
