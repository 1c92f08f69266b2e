"""Leader election on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random

import pytest

from modelmesh.kubernetes.kinds import LEASE, NAMESPACE, Key, Kind, Object
from modelmesh.kubernetes.loop.leader import LOCK, Leadership, LeaseTimes
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.kubernetes import MemoryApi


class Cut:
    """One controller's way to the API server."""

    def __init__(self, api: MemoryApi) -> None:
        self._api = api
        self.cut = False

    def __getattr__(self, name: str):
        return getattr(self._away if self.cut else self._api, name)

    @property
    def _away(self) -> MemoryApi:
        away = MemoryApi(VirtualClock())
        away.down = True
        return away


class Candidate:
    def __init__(self, api: MemoryApi, name: str, skew_ms: int = 0) -> None:
        self.api = Cut(api)
        self.name = name
        self.led: list[tuple[float, float | None]] = []
        self.leadership = Leadership(
            api=self.api,  # type: ignore[arg-type]
            clock=VirtualClock(skew_ms),
            rng=Random(name),
            key=Key("ns", LOCK),
            identity=name,
        )
        self.task = asyncio.ensure_future(self.leadership.run(self._work))

    async def _work(self) -> None:
        now = asyncio.get_running_loop().time
        self.led.append((now(), None))
        try:
            await asyncio.Event().wait()
        finally:
            self.led[-1] = (self.led[-1][0], now())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def play(story: Callable[[MemoryApi], Awaitable[list[Candidate]]]) -> None:
    async def main() -> None:
        api = MemoryApi(VirtualClock())
        api.put(NAMESPACE, {"metadata": {"name": "ns"}})
        candidates = await story(api)
        end = asyncio.get_running_loop().time()
        spans = sorted((begin, until or end) for candidate in candidates for begin, until in candidate.led)
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans)), spans
        for candidate in candidates:
            await candidate.stop()

    run_virtual(main())


class Doubled(MemoryApi):
    """An API server whose answers to some writes of leases are lost; the HTTP client makes such a write again, on the old revision."""

    lost = 0

    async def replace(self, kind: Kind, item: Object) -> Object:
        written = await super().replace(kind, item)
        self.lost += 1
        return written if self.lost % 3 == 0 else await super().replace(kind, item)


def test_a_leader_whose_write_is_made_twice_goes_on_leading() -> None:
    async def main() -> None:
        api = Doubled(VirtualClock())
        api.put(NAMESPACE, {"metadata": {"name": "ns"}})
        a = Candidate(api, "a")
        await asyncio.sleep(5)
        b = Candidate(api, "b")
        await asyncio.sleep(120)
        assert api.lost > 50
        assert (len(a.led), len(b.led)) == (1, 0)
        await a.stop()
        await asyncio.sleep(5)
        assert len(b.led) == 1
        await b.stop()

    run_virtual(main())


def test_one_leads_and_another_begins_at_once_when_it_stops() -> None:
    async def story(api: MemoryApi) -> list[Candidate]:
        a = Candidate(api, "a")
        await asyncio.sleep(5)
        b = Candidate(api, "b")
        await asyncio.sleep(60)
        assert (len(a.led), len(b.led)) == (1, 0)
        await a.stop()
        await asyncio.sleep(4)
        assert len(b.led) == 1
        assert api.get(LEASE, LOCK, "ns")["spec"]["leaseTransitions"] == 1
        return [a, b]

    play(story)


@pytest.mark.parametrize("skew_ms", [0, -3_600_000, 3_600_000])
def test_a_leader_that_is_cut_off_ends_its_work_before_another_begins(skew_ms: int) -> None:
    async def story(api: MemoryApi) -> list[Candidate]:
        a = Candidate(api, "a")
        await asyncio.sleep(5)
        b = Candidate(api, "b", skew_ms)
        await asyncio.sleep(30)
        a.api.cut = True
        await asyncio.sleep(60)
        assert len(b.led) == 1
        a.api.cut = False
        await asyncio.sleep(60)
        assert len(a.led) == 1
        return [a, b]

    play(story)


def test_a_leader_that_was_killed_is_followed_after_the_lease() -> None:
    async def story(api: MemoryApi) -> list[Candidate]:
        lease = {
            "metadata": {"name": LOCK, "namespace": "ns"},
            "spec": {"holderIdentity": "killed", "leaseDurationSeconds": 15, "leaseTransitions": 7},
        }
        api.put(LEASE, lease)
        b = Candidate(api, "b")
        await asyncio.sleep(14)
        assert not b.led
        await asyncio.sleep(4)
        assert b.led
        assert api.get(LEASE, LOCK, "ns")["spec"]["holderIdentity"] == "b"
        return [b]

    play(story)


def test_an_outage_shorter_than_the_lease_changes_nothing() -> None:
    async def story(api: MemoryApi) -> list[Candidate]:
        a, b = Candidate(api, "a"), Candidate(api, "b")
        await asyncio.sleep(20)
        leader = a if a.led else b
        api.down = True
        await asyncio.sleep(6)
        api.down = False
        await asyncio.sleep(60)
        assert len(leader.led) == 1
        assert leader.led[0][1] is None
        return [a, b]

    play(story)


def test_times_that_would_let_two_lead_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        LeaseTimes(duration_s=10, renew_s=10)
