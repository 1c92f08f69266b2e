"""Classes of calls (`mm-priority`): who goes first, who is refused first, and who may claim one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from rest_client import Rest, X, mirror
from scripted import ID, WAIT, Instance, Runtime, status_of, until

from modelmesh.adapters.clock import SystemClock
from modelmesh.control.tasks import Tasks
from modelmesh.management.access import Access
from modelmesh.policy.access import AccessRules, Grant, Tenant, hash_of_key
from modelmesh.values.access import Identity, Verb
from modelmesh.values.dataplane import (
    Asked,
    AttemptFailed,
    Cancelled,
    DataPlaneEvent,
    Fail,
    Forward,
    Hop,
    Missed,
    Resolution,
    Serve,
)
from modelmesh.values.priority import Priority
from modelmesh.values.status import Status

Make = Callable[..., Instance]
KNOWN = "the header mm-priority names no class of calls; it must be high, normal or low"


def of_class(word: str, model: str = "m") -> tuple[tuple[str, str], ...]:
    return (("mm-model-id", model), ("mm-priority", word))


async def test_an_unknown_class_is_refused_with_the_known_ones(make: Make, runtime: Runtime) -> None:
    runtime.script["ModelInfer"] = mirror
    one = make(rest="127.0.0.1:0")
    one.local()
    rest = Rest(one)
    try:
        for word in ("urgent", "HIGH", ""):
            assert await status_of(one.unary()(b"", metadata=of_class(word))) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                KNOWN,
            )
            headers = {"mm-model-id": "m", "mm-priority": word}
            status, body, _ = await rest.ask("POST", "/v2/models/m/infer", json={"inputs": [X]}, headers=headers)
            assert (status, body) == (400, {"error": KNOWN})
        assert runtime.calls == []
        headers = {"mm-model-id": "m", "mm-priority": "high"}
        status, _, _ = await rest.ask("POST", "/v2/models/m/infer", json={"inputs": [X]}, headers=headers)
        assert status == 200
    finally:
        await rest.session.close()


@pytest.mark.parametrize("word", ["high", "low", None])
async def test_a_class_goes_with_a_call_to_the_instance_that_loads_and_not_to_the_runtime(
    make: Make, runtime: Runtime, word: str | None
) -> None:
    near, far = make("near"), make("far")
    near.plane.set_peers([("far", far.peer_address)])
    near.brain.decide = lambda event: Forward("far", Hop.LOAD) if isinstance(event, Missed) else None

    def load(event: DataPlaneEvent) -> Resolution | None:
        far.local()
        return Serve() if isinstance(event, Missed) else None

    far.brain.decide = load
    metadata = ID if word is None else of_class(word)
    assert await near.unary()(b"x", metadata=metadata, timeout=WAIT) == b"x"
    expected = Priority.NORMAL if word is None else Priority.parse(word)
    assert (await near.brain.next(Missed)).priority is expected
    assert (await far.brain.next(Missed)).priority is expected
    assert "mm-priority" not in runtime.metadata()


class Slow:
    """A runtime's method that answers one call after the other, when it is told to."""

    def __init__(self, runtime: Runtime) -> None:
        self.order: list[str] = []
        self._go = asyncio.Semaphore(0)
        runtime.script["Slow"] = self._answer

    async def _answer(self, requests: AsyncIterator[bytes], _: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            self.order.append(request.decode())
            await self._go.acquire()
            yield request

    def go(self, calls: int) -> None:
        for _ in range(calls):
            self._go.release()


async def test_a_higher_class_is_served_first_and_takes_the_place_of_a_lower_one(
    one: Instance, runtime: Runtime
) -> None:
    slow = Slow(runtime)
    one.local(max_concurrency=1, max_waiting=3)
    one.brain.decide = lambda event: Fail(event.status, event.message) if isinstance(event, AttemptFailed) else None
    calls: dict[str, Any] = {}

    async def enter(name: str, waiting: int) -> None:
        calls[name] = one.unary("Slow")(name.encode(), metadata=of_class(name.partition("-")[0]), timeout=WAIT)
        await until(lambda: sum(use.waiting for use in one.plane.usage()) == waiting)

    await enter("normal-0", 0)
    await until(lambda: slow.order == ["normal-0"])
    for waiting, name in enumerate(("low-1", "normal-2", "normal-3"), 1):
        await enter(name, waiting)
    calls["low-4"] = one.unary("Slow")(b"low-4", metadata=of_class("low"), timeout=WAIT)
    assert await status_of(calls.pop("low-4")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Model queue overload")
    await enter("high-5", 3)
    assert await status_of(calls.pop("low-1")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Model queue overload")
    await enter("high-6", 3)
    assert await status_of(calls.pop("normal-3")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Model queue overload")
    slow.go(len(calls))
    assert [await call for call in calls.values()] == [name.encode() for name in calls]
    assert slow.order == ["normal-0", "high-5", "high-6", "normal-2"]


async def test_where_no_more_may_wait_for_loads_a_lower_class_loses_its_place(make: Make) -> None:
    one = make(held_requests_max=2)
    low = one.unary()(b"", metadata=of_class("low", "a"), timeout=WAIT)
    lost = await one.brain.next(Missed)
    normal = one.unary()(b"", metadata=of_class("normal", "b"), timeout=WAIT)
    kept = await one.brain.next(Missed)
    refused = one.unary()(b"", metadata=of_class("low", "c"), timeout=WAIT)
    assert (await status_of(refused))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    high = one.unary()(b"", metadata=of_class("high", "d"), timeout=WAIT)
    urgent = await one.brain.next(Missed)
    code, said = await status_of(low)
    assert (code, "lost its place to one of a higher class" in said) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    assert (await one.brain.next(Cancelled)).token == lost.token, "the control plane works at it no more"
    one.plane.resolve([(token, Fail(Status.ABORTED, "seen")) for token in (kept.token, urgent.token)])
    for call in (normal, high):
        assert await status_of(call) == (grpc.StatusCode.ABORTED, "seen")


async def test_access_rules_bound_the_class_that_a_caller_may_claim(make: Make) -> None:
    one = make()
    failures: list[Any] = []
    access = Access(
        dataplane=one.plane, clock=SystemClock(), tasks=Tasks(lambda *one: failures.append(one)), keys=_none
    )
    callers = {"stranger": "", "gold": "gold", "batch": "gold"}
    access.use(
        AccessRules(
            principals={name: Identity(name, tenant=tenant) for name, tenant in callers.items()},
            keys={hash_of_key(name): name for name in callers},
            grants=(Grant(("*",), frozenset({Verb.INFER}), ("*",)),),
            tenants={"gold": Tenant("gold", priority=Priority.HIGH)},
            priorities={"batch": Priority.LOW},
        )
    )

    def decide(event: DataPlaneEvent) -> Resolution | None:
        if isinstance(event, Asked):
            access.asked(event)
        return Fail(Status.ABORTED, event.priority.word) if isinstance(event, Missed) else None

    one.brain.decide = decide
    for caller, claims, gets in [
        ("stranger", "high", "normal"),
        ("stranger", None, "normal"),
        ("stranger", "low", "low"),
        ("gold", "high", "high"),
        ("gold", None, "normal"),
        ("batch", "high", "low"),
        ("batch", None, "low"),
    ]:
        metadata = (*(ID if claims is None else of_class(claims)), ("x-api-key", caller))
        assert await status_of(one.unary()(b"", metadata=metadata)) == (grpc.StatusCode.ABORTED, gets), (caller, claims)
    assert not failures


async def _none(_where: str, _kid: str) -> list[Any]:
    return []
