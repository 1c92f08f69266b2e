"""Statuses are written on the revision that was read, and a look that comes before the cache has seen a write makes no conflict."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from modelmesh.kubernetes.kinds import PREDICTOR, Key, Object
from modelmesh.kubernetes.loop.status_writer import StatusWriter
from modelmesh.kubernetes.ports import ConflictError
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.kubernetes import MemoryApi
from modelmesh.testing.kubernetes_cluster import OWN, KubernetesCluster

KEY = Key(OWN, "m")


def play(story: Callable[[MemoryApi, StatusWriter, Object], Awaitable[None]]) -> None:
    async def main() -> None:
        api = MemoryApi(VirtualClock())
        api.put(PREDICTOR, {"metadata": {"name": "m", "namespace": OWN}, "spec": {"a": 1}})
        cached = await api.read(PREDICTOR, KEY)
        assert cached is not None
        await story(api, StatusWriter(api), cached)

    run_virtual(main())


def test_a_cache_that_is_behind_makes_no_conflict() -> None:
    async def story(api: MemoryApi, statuses: StatusWriter, cached: Object) -> None:
        for state in ("Pending", "Loading", "Loaded"):
            item = statuses.latest(PREDICTOR, cached)
            assert await statuses.write(PREDICTOR, item, {"state": state})
        assert api.get(PREDICTOR, "m", OWN)["status"] == {"state": "Loaded"}
        assert not await statuses.write(PREDICTOR, statuses.latest(PREDICTOR, cached), {"state": "Loaded"})
        assert len(api.writes) == 3

    play(story)


def test_a_cache_that_sees_the_first_of_two_writes_is_still_behind() -> None:
    async def story(api: MemoryApi, statuses: StatusWriter, cached: Object) -> None:
        await statuses.write(PREDICTOR, statuses.latest(PREDICTOR, cached), {"state": "Pending"})
        first = await api.read(PREDICTOR, KEY)
        assert first is not None
        await statuses.write(PREDICTOR, statuses.latest(PREDICTOR, cached), {"state": "Loading"})
        item = statuses.latest(PREDICTOR, first)
        assert item["status"] == {"state": "Loading"}
        assert await statuses.write(PREDICTOR, item, {"state": "Loaded"})
        assert api.get(PREDICTOR, "m", OWN)["status"] == {"state": "Loaded"}

    play(story)


def test_what_another_client_changed_is_not_overwritten() -> None:
    async def story(api: MemoryApi, statuses: StatusWriter, cached: Object) -> None:
        await statuses.write(PREDICTOR, statuses.latest(PREDICTOR, cached), {"state": "Pending"})
        api.edit(PREDICTOR, "m", OWN, {"spec": {"a": 2}})
        with pytest.raises(ConflictError):
            await statuses.write(PREDICTOR, statuses.latest(PREDICTOR, cached), {"state": "Loaded"})
        now = await api.read(PREDICTOR, KEY)
        assert now is not None
        assert statuses.latest(PREDICTOR, now) is now
        assert await statuses.write(PREDICTOR, now, {"state": "Loaded"})
        assert api.get(PREDICTOR, "m", OWN)["spec"] == {"a": 2}

    play(story)


def test_one_that_is_made_again_has_nothing_of_the_old_one() -> None:
    async def story(api: MemoryApi, statuses: StatusWriter, cached: Object) -> None:
        await statuses.write(PREDICTOR, cached, {"state": "Pending"})
        api.remove(PREDICTOR, "m", OWN)
        api.put(PREDICTOR, {"metadata": {"name": "m", "namespace": OWN}, "spec": {"a": 1}})
        again = await api.read(PREDICTOR, KEY)
        assert again is not None
        assert statuses.latest(PREDICTOR, again) is again
        statuses.forget(PREDICTOR, KEY)
        assert statuses.latest(PREDICTOR, again) is again

    play(story)


def test_the_controller_meets_no_conflict_of_its_own_and_keeps_nothing_of_what_was_seen() -> None:
    async def main() -> None:
        k = KubernetesCluster()
        k.api.latency_ms = 50  # a watch brings a write later than the mesh its next state
        running = k.start()
        k.runtime("r")
        for number in range(8):
            k.predictor(f"m{number}", path=f"p{number}")
        await asyncio.sleep(90)
        assert [line for line in k.lines if line["event"] == "look failed"] == []
        assert {k.status(f"m{number}")["activeModelState"] for number in range(8)} == {"Loaded"}
        assert not [key for key in running.services.statuses._written if key[0] is PREDICTOR]
        await k.stop()

    run_virtual(main())
