"""Transcripts: what is done to a simulated cluster, and what it does then, as text.

A file is blocks apart by empty lines. A block is commands, a line `----`, and what happened until the next block:

    # An instance dies while it loads; the waiting call moves on.
    instances n1 n2 capacity=4GiB
    model m1 size=1GiB load=2s
    request r1 m1 via=n1 deadline=10s
    ----
    0ms       n1 sent             m1 placed_elsewhere (to n2; considered ['n1', 'n2'])

    at 800ms crash n2
    ----
    …

`play` answers with the same text, its answers as they are now: equal if nothing changed. Time is virtual and counts
from the first command that is neither `instances`, `model` nor `constrain`.

    instances NAME… [capacity=1GiB] [default=50MiB] [slots=6] [labels=a,b]    start instances, one after the other
    model NAME… [size=50MiB] [load=10ms] [unload=10ms] [type=fake] [fails=TEXT]  register models, unloaded
    constrain TYPE LABEL…                    models of the type may be only where all labels are
    request ID MODEL via=NAME [deadline=60s] a call; its answer is told under the id
    ensure MODEL via=NAME [sync=no]          ensureLoaded
    unregister MODEL
    drop MODEL at=NAME                       the runtime loses the model
    runtime NAME answers=STATUS:TEXT         its inference fails so; `answers=ok` ends that
    fails MODEL at=NAME,… with=TEXT          its loads fail there; without `with` they succeed again
    crash NAME · leave NAME
    cut NAME NAME · heal NAME NAME
    expect MODEL at=NAME,…                   tells where ready copies are
    at TIME COMMAND                          wait until then first
    run [TIME]                               continue for so long, or until every call has its answer and all is at rest
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from modelmesh.policy.constraints import TypeConstraint, TypeConstraints
from modelmesh.ports import RuntimeCallError
from modelmesh.testing.clock import EPOCH_MS, VirtualClock, run_virtual
from modelmesh.testing.cluster import (
    SimulatedCluster,
    SimulatedInstance,
    ensure_loaded,
    infer_after,
    register,
    unregister,
)
from modelmesh.testing.fake_runtime import FakeRuntime
from modelmesh.testing.model_paths import size_path
from modelmesh.values.events import Event
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status

RULE = "----"
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TIMES = {"ms": 1, "s": 1000, "min": 60_000}
_SETUP = frozenset({"instances", "model", "constrain"})
SETTLED_MS = 60_000


class ScenarioError(ValueError):
    """A transcript that cannot be played; the message names the line."""


@dataclass(slots=True)
class Block:
    """Commands, and the lines that told what happened."""

    commands: list[str]
    lines: list[str] = field(default_factory=list)


def parse(text: str) -> list[Block]:
    """Split a transcript. Comments and empty lines before a block belong to its commands."""
    blocks: list[Block] = []
    commands: list[str] = []
    inside = False
    for line in text.splitlines():
        if line == RULE:
            blocks.append(Block(commands))
            commands, inside = [], True
        elif inside and line:
            blocks[-1].lines.append(line)
        else:
            inside = False
            commands.append(line)
    if any(line.strip() for line in commands):
        raise ScenarioError(f"after {commands[-1]!r} the line {RULE} is missing")
    return blocks


def play(text: str) -> str:
    """Play a transcript; returns it with what happened now."""
    return run_virtual(_Player().play(parse(text)))


class _Player:
    def __init__(self) -> None:
        self._cluster = SimulatedCluster(seed=1)
        self._clock = VirtualClock()
        self._began_ms: int | None = None
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._lines: list[str] = []
        self._answers: dict[InstanceId, tuple[Status, str]] = {}
        self._cluster.watchers.append(self._happened)
        self._commands: dict[str, Callable[[list[str], dict[str, str]], Awaitable[None]]] = {
            "instances": self._instances,
            "model": self._model,
            "constrain": self._constrain,
            "request": self._request,
            "ensure": self._ensure,
            "unregister": self._unregister,
            "drop": self._drop,
            "runtime": self._runtime,
            "fails": self._fails,
            "crash": self._crash,
            "leave": self._leave,
            "cut": self._cut,
            "heal": self._heal,
            "expect": self._expect,
            "run": self._run,
        }

    async def play(self, blocks: list[Block]) -> str:
        lines: list[str] = []
        try:
            for block in blocks:
                for line in block.commands:
                    if line.strip() and not line.startswith("#"):
                        await self._perform(line)
                await asyncio.sleep(0.0005)
                lines += [*block.commands, RULE, *self._lines]
                self._lines.clear()
        finally:
            for call in self._calls.values():
                call.cancel()
            await self._cluster.stop()
        return "\n".join(lines) + "\n"

    async def _perform(self, line: str) -> None:
        words = line.split()
        at_ms: int | None = None
        if words[0] == "at":
            at_ms, words = _time(words[1]), words[2:]
        command = self._commands.get(words[0])
        if command is None:
            raise ScenarioError(f"{line!r}: there is no command {words[0]!r}")
        if words[0] not in _SETUP and self._began_ms is None:
            await asyncio.sleep(2)  # the instances know each other
            self._lines.clear()
            self._began_ms = self._clock.monotonic_ms()
        if at_ms is not None:
            assert self._began_ms is not None
            await asyncio.sleep((self._began_ms + at_ms - self._clock.monotonic_ms()) / 1000)
        given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        try:
            await command([word for word in words[1:] if "=" not in word], given)
        except (KeyError, ValueError) as error:
            raise ScenarioError(f"{line!r}: {error}") from error

    # --- telling ------------------------------------------------------------------------------------

    def _happened(self, event: Event) -> None:
        detail = f" ({event.detail})" if event.detail else ""
        subject = f"{event.model} {event.reason}".strip()
        self._tell(f"{event.instance} {event.kind:<16} {subject}{detail}", event.time_ms - EPOCH_MS)

    def _tell(self, text: str, at_ms: int | None = None) -> None:
        now_ms = self._clock.monotonic_ms() if at_ms is None else at_ms
        self._lines.append(f"{now_ms - (self._began_ms or now_ms)}ms".ljust(10) + text.rstrip())

    # --- commands -----------------------------------------------------------------------------------

    async def _instances(self, names: list[str], given: dict[str, str]) -> None:
        for name in names:
            instance = InstanceId(name)

            async def infer(runtime: FakeRuntime, model: ModelId, payload: object, at: InstanceId = instance) -> object:
                if at in self._answers:
                    raise RuntimeCallError(*self._answers[at])
                return await infer_after()(runtime, model, payload)

            runtime = FakeRuntime(
                self._clock,
                capacity_bytes=_size(given.get("capacity", "1GiB")),
                default_size_bytes=_size(given.get("default", "50MiB")),
                loading_concurrency=int(given.get("slots", "6")),
            )
            labels = tuple(given.get("labels", "").split(",")) if "labels" in given else ()
            await self._cluster.add(name, runtime=runtime, labels=labels, infer=infer)

    async def _model(self, names: list[str], given: dict[str, str]) -> None:
        size, load, unload = given.get("size", "50MiB"), given.get("load", "10ms"), given.get("unload", "10ms")
        path = f"FAIL_{given['fails']}" if "fails" in given else size_path(_size(size), _time(load), _time(unload))
        for name in names:
            await register(self._first(), name, path=path, kind=given.get("type", "fake"))

    async def _constrain(self, words: list[str], _: dict[str, str]) -> None:
        constraints = TypeConstraints({words[0]: TypeConstraint(required=tuple(words[1:]))})
        for instance in self._cluster.instances.values():
            instance.plane.constrain(constraints)

    async def _request(self, words: list[str], given: dict[str, str]) -> None:
        name, model = words

        async def call() -> None:
            answer = await self._cluster.call(
                model, via=given["via"], payload=name, timeout_ms=_time(given.get("deadline", "60s"))
            )
            by = f"served by {answer.served_by}" if answer.status is Status.OK else answer.message
            self._tell(f"{name} {answer.status.name} {by}")

        self._calls[name] = asyncio.create_task(call())
        await asyncio.sleep(0)

    async def _ensure(self, words: list[str], given: dict[str, str]) -> None:
        instance = self._cluster.instances[InstanceId(given["via"])]
        told = await ensure_loaded(instance, words[0], sync=given.get("sync", "no") == "yes")
        self._tell(f"ensured {words[0]} {told}")

    async def _unregister(self, words: list[str], _: dict[str, str]) -> None:
        for model in words:
            await unregister(self._first(), model)

    async def _drop(self, words: list[str], given: dict[str, str]) -> None:
        self._cluster.instances[InstanceId(given["at"])].runtime.vanish(ModelId(words[0]))

    async def _runtime(self, words: list[str], given: dict[str, str]) -> None:
        status, _, text = given["answers"].partition(":")
        if status == "ok":
            self._answers.pop(InstanceId(words[0]), None)
        else:
            self._answers[InstanceId(words[0])] = (Status[status], text)

    async def _fails(self, words: list[str], given: dict[str, str]) -> None:
        for name in given["at"].split(","):
            failures = self._cluster.instances[InstanceId(name)].runtime.load_failures
            failures.pop(ModelId(words[0]), None)
            if "with" in given:
                failures[ModelId(words[0])] = RuntimeCallError(Status.INTERNAL, given["with"])

    async def _crash(self, words: list[str], _: dict[str, str]) -> None:
        await self._cluster.crash(words[0])

    async def _leave(self, words: list[str], _: dict[str, str]) -> None:
        await self._cluster.leave(words[0])

    async def _cut(self, words: list[str], _: dict[str, str]) -> None:
        self._cluster.network.cut(InstanceId(words[0]), InstanceId(words[1]))

    async def _heal(self, words: list[str], _: dict[str, str]) -> None:
        self._cluster.network.heal(InstanceId(words[0]), InstanceId(words[1]))

    async def _expect(self, words: list[str], _: dict[str, str]) -> None:
        for model in words:
            self._tell(f"{model} is ready at {', '.join(self._cluster.holders(model)) or 'no instance'}")

    async def _run(self, words: list[str], _: dict[str, str]) -> None:
        if words:
            await asyncio.sleep(_time(words[0]) / 1000)
            return
        await asyncio.gather(*self._calls.values())
        await self._cluster.settled(within_ms=SETTLED_MS)

    def _first(self) -> SimulatedInstance:
        return next(iter(self._cluster.instances.values()))


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]iB|B)", text)
    if found is None:
        raise ScenarioError(f"{text!r} is not a size like 50MiB")
    return int(found[1]) * _UNITS[found[2]]


def _time(text: str) -> int:
    found = re.fullmatch(r"(\d+)(ms|s|min)", text)
    if found is None:
        raise ScenarioError(f"{text!r} is not a time like 800ms or 2s")
    return int(found[1]) * _TIMES[found[2]]
