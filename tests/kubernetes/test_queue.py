"""The queue of keys, on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random

import pytest

from modelmesh.kubernetes.loop.queue import LAST_PAUSE_MS, Queue
from modelmesh.kubernetes.ports import ApiError
from modelmesh.testing.clock import VirtualClock, run_virtual

Work = Callable[[str], Awaitable[float | None]]


class Run:
    """A queue of keys `group/name`, and when each was worked on."""

    def __init__(self, work: Work, *, per_group: int = 4, bound_s: float = 30) -> None:
        self.at: dict[str, list[float]] = {}
        self.active: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.failures: list[str] = []
        self._work = work
        self.queue: Queue[str] = Queue(
            self._counted,
            clock=VirtualClock(),
            rng=Random(1),
            group=lambda key: key.partition("/")[0],
            per_group=per_group,
            bound_s=bound_s,
            failed=lambda key, error, after: self.failures.append(f"{key}: {error!r}"),
        )
        self.task = asyncio.ensure_future(self.queue.run())

    async def _counted(self, key: str) -> float | None:
        group = key.partition("/")[0]
        self.at.setdefault(key, []).append(round(asyncio.get_running_loop().time(), 3))
        self.active[group] = self.active.get(group, 0) + 1
        self.most[group] = max(self.most.get(group, 0), self.active[group])
        try:
            return await self._work(key)
        finally:
            self.active[group] -= 1

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def play(story: Callable[[], Awaitable[None]]) -> None:
    run_virtual(story())


async def one_second(_: str) -> None:
    await asyncio.sleep(1)


def test_a_server_that_asks_to_wait_is_waited_for_also_if_something_changes() -> None:
    async def refused(_: str) -> None:
        if len(run.at["a/k"]) < 3:
            raise ApiError(429, "too many requests", retry_after_s=7)

    async def story() -> None:
        nonlocal run
        run = Run(refused)
        run.queue.add("a/k")
        for _ in range(40):
            await asyncio.sleep(0.5)
            run.queue.add("a/k")
        first, second, third, *_ = run.at["a/k"]
        assert second - first >= 7
        assert third - second >= 7
        assert len(run.at["a/k"]) > 5  # and once it is served, changes are looked at when they come
        await run.stop()

    run: Run
    play(story)


def test_a_key_that_is_added_often_is_worked_on_once_and_once_more_if_it_changed_meanwhile() -> None:
    async def story() -> None:
        run = Run(one_second)
        for _ in range(5):
            run.queue.add("a/x")
        await asyncio.sleep(0.5)
        for _ in range(5):
            run.queue.add("a/x")
        await asyncio.sleep(10)
        assert run.at == {"a/x": [0, 1]}
        assert run.most == {"a": 1}
        assert run.queue.idle
        assert not run.queue.failing
        await run.stop()

    play(story)


def test_a_group_that_does_not_get_on_delays_no_other() -> None:
    async def work(key: str) -> None:
        await asyncio.sleep(1_000 if key.startswith("stuck") else 0.01)

    async def story() -> None:
        run = Run(work, per_group=4, bound_s=20)
        for number in range(100):
            run.queue.add(f"stuck/{number}")
        for number in range(10):
            run.queue.add(f"fine/{number}")
        await asyncio.sleep(1)
        assert sum(key.startswith("fine") for key in run.at) == 10
        assert run.most["stuck"] == 4
        await asyncio.sleep(20)
        assert any("TimeoutError" in failure for failure in run.failures)
        await run.stop()

    play(story)


def test_failures_are_repeated_with_growing_pauses_up_to_a_bound() -> None:
    async def work(_: str) -> None:
        raise RuntimeError("no")

    async def story() -> None:
        run = Run(work)
        run.queue.add("a/x")
        await asyncio.sleep(3_600)
        times = run.at["a/x"]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert len(times) < 60
        assert pauses[0] <= 0.2
        assert max(pauses) <= LAST_PAUSE_MS / 1000 + 0.01
        assert min(pauses[-5:]) >= LAST_PAUSE_MS / 2000
        assert run.queue.idle
        assert run.queue.failing
        await run.stop()

    play(story)


def test_a_change_ends_a_pause() -> None:
    failing = True

    async def work(_: str) -> None:
        if failing:
            raise RuntimeError("no")

    async def story() -> None:
        nonlocal failing
        run = Run(work)
        run.queue.add("a/x")
        await asyncio.sleep(600)
        before = len(run.at["a/x"])
        failing = False
        run.queue.add("a/x")
        await asyncio.sleep(600)
        assert len(run.at["a/x"]) == before + 1
        await run.stop()

    play(story)


@pytest.mark.parametrize("earlier_first", [True, False])
def test_of_two_times_the_earlier_counts(earlier_first: bool) -> None:
    async def story() -> None:
        run = Run(one_second)
        for after in (5, 50) if earlier_first else (50, 5):
            run.queue.add_later("a/x", after)
        await asyncio.sleep(100)
        assert run.at["a/x"] == [5]
        await run.stop()

    play(story)


def test_work_may_ask_to_be_called_again() -> None:
    async def work(_: str) -> float | None:
        return 60

    async def story() -> None:
        run = Run(work)
        run.queue.add("a/x")
        await asyncio.sleep(200)
        assert run.at["a/x"] == [0, 60, 120, 180]
        await run.stop()

    play(story)
