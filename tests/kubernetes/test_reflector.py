"""The reflector against an API server that resets, freezes and compacts watches, on virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from random import Random

import pytest

from modelmesh.kubernetes.kinds import NAMESPACE, PREDICTOR, SERVICE_MONITOR, Key, Kind
from modelmesh.kubernetes.loop import reflector as reflecting
from modelmesh.kubernetes.loop.cache import Cache
from modelmesh.kubernetes.loop.reflector import Reflector
from modelmesh.kubernetes.ports import ApiError, GoneError, Scope
from modelmesh.testing.clock import VirtualClock, run_virtual
from modelmesh.testing.kubernetes import MemoryApi


class Watched:
    """A cache that a reflector fills, and the changes that were told."""

    def __init__(self, api: MemoryApi, kind: Kind = PREDICTOR, scope: Scope | None = None) -> None:
        self.api = api
        self.cache = Cache(kind)
        self.told: list[tuple[str, str]] = []
        self.cache.follow(
            lambda key, before, now: self.told.append(
                ("deleted" if now is None else "added" if before is None else "modified", key.name)
            )
        )
        self.reflector = Reflector(
            api=api, cache=self.cache, scope=scope or Scope(), clock=VirtualClock(), rng=Random(1)
        )
        self.task = asyncio.ensure_future(self.reflector.run())

    @property
    def names(self) -> list[str]:
        return sorted(key.name for key, _ in self.cache.items())

    def create(self, name: str, namespace: str = "ns") -> None:
        self.api.put(PREDICTOR, {"metadata": {"name": name, "namespace": namespace}, "spec": {"n": 1}})

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def play(story: Callable[[Watched], Awaitable[None]], **options) -> None:
    async def main() -> None:
        api = MemoryApi(VirtualClock())
        api.put(NAMESPACE, {"metadata": {"name": "ns"}})
        watched = Watched(api, **options)
        watched.create("a0")
        watched.create("a1")
        await asyncio.sleep(1)
        await story(watched)
        await watched.stop()
        assert api.watching == 0

    run_virtual(main())


def test_it_lists_and_follows() -> None:
    async def story(w: Watched) -> None:
        assert w.names == ["a0", "a1"]
        assert w.cache.synced.is_set()
        w.create("a2")
        w.api.remove(PREDICTOR, "a0", "ns")
        w.api.edit(PREDICTOR, "a1", "ns", {"spec": {"n": 2}})
        await asyncio.sleep(1)
        assert w.names == ["a1", "a2"]
        assert w.told[2:] == [("added", "a2"), ("deleted", "a0"), ("modified", "a1")]
        assert w.reflector.listings == 1

    play(story)


def test_a_watch_that_breaks_continues_where_it_was() -> None:
    async def story(w: Watched) -> None:
        w.api.cut_watches()
        w.create("a2")
        w.api.remove(PREDICTOR, "a0", "ns")
        await asyncio.sleep(1)
        assert w.names == ["a1", "a2"]
        assert w.reflector.listings == 1

    play(story)


def test_what_was_deleted_while_the_history_was_compacted_is_deleted_here() -> None:
    async def story(w: Watched) -> None:
        w.api.down = True
        w.api.cut_watches()
        w.api.remove(PREDICTOR, "a0", "ns")
        w.create("a2")
        w.api.compact()
        await asyncio.sleep(5)
        w.api.down = False
        await asyncio.sleep(60)
        assert w.names == ["a1", "a2"]
        assert ("deleted", "a0") in w.told
        w.create("a3")
        await asyncio.sleep(1)
        assert w.names == ["a1", "a2", "a3"]

    play(story)


def test_a_server_that_keeps_no_revision_is_listed_with_growing_pauses() -> None:
    async def story(w: Watched) -> None:
        gone = GoneError(410, "too old resource version")
        w.api.refuse = lambda request: gone if request.verb == "WATCH" else None
        w.api.cut_watches()
        w.api.requests.clear()
        await asyncio.sleep(600)
        assert 10 < sum(request.verb == "LIST" for request in w.api.requests) < 80
        w.api.refuse = lambda _: None
        await asyncio.sleep(40)
        w.create("a2")
        await asyncio.sleep(1)
        assert w.names == ["a0", "a1", "a2"]

    play(story)


def test_a_connection_that_is_silent_is_given_up() -> None:
    async def story(w: Watched) -> None:
        w.api.freeze_watches()
        w.create("a2")
        w.api.remove(PREDICTOR, "a0", "ns")
        await asyncio.sleep(reflecting.SILENCE_S + 1)
        assert w.names == ["a1", "a2"]

    play(story)


def test_bookmarks_keep_a_quiet_watch_open_and_its_revision_fresh() -> None:
    async def story(w: Watched) -> None:
        for number in range(100):
            w.api.put(NAMESPACE, {"metadata": {"name": f"other-{number}"}})
        await asyncio.sleep(120)
        w.api.compact()  # the revision of the last change of this kind is gone, that of the bookmark is not
        w.api.cut_watches()
        await asyncio.sleep(1)
        w.create("a2")
        await asyncio.sleep(1)
        assert w.names == ["a0", "a1", "a2"]
        assert w.reflector.listings == 1

    play(story)


def test_a_server_that_is_away_is_asked_with_growing_pauses() -> None:
    async def story(w: Watched) -> None:
        asked: list[float] = []

        def refuse(_: object) -> ApiError:
            asked.append(asyncio.get_running_loop().time())
            return ApiError(503, "away")

        w.api.refuse = refuse
        w.api.cut_watches()
        await asyncio.sleep(600)
        pauses = [later - earlier for earlier, later in pairwise(asked)]
        assert len(asked) < 50
        assert max(pauses) <= reflecting.PAUSE_MAX_MS / 1000
        assert len(set(pauses[-5:])) > 1  # drawn, so that many clients do not come at once
        w.api.refuse = lambda _: None
        w.create("a2")
        await asyncio.sleep(31)
        assert w.names == ["a0", "a1", "a2"]

    play(story)


def test_the_server_may_say_when_to_come_again() -> None:
    async def story(w: Watched) -> None:
        asked = 0

        def refuse(_: object) -> ApiError:
            nonlocal asked
            asked += 1
            return ApiError(429, "too many requests", retry_after_s=20)

        w.api.refuse = refuse
        w.api.cut_watches()
        await asyncio.sleep(50)
        assert asked == 3

    play(story)


@pytest.mark.parametrize("objects", [0, 499, 1_200])
def test_large_kinds_come_in_pages_also_when_a_page_is_gone(objects: int) -> None:
    async def main() -> None:
        api = MemoryApi(VirtualClock())
        for number in range(objects):
            api.put(PREDICTOR, {"metadata": {"name": f"p{number:04}", "namespace": "ns"}})
        refused = 0

        def refuse(request) -> None:
            nonlocal refused
            if request.verb == "LIST" and len(api._listings) == 1 and not refused:
                refused = 1
                api._listings.clear()

        api.refuse = refuse
        watched = Watched(api)
        await asyncio.sleep(5)
        assert len(watched.names) == objects
        assert len([told for told in watched.told if told[0] == "added"]) == objects
        await watched.stop()

    run_virtual(main())


def test_a_kind_that_is_not_installed_is_nothing_and_is_found_when_it_comes() -> None:
    async def main() -> None:
        api = MemoryApi(VirtualClock())
        api.absent.add("ServiceMonitor")
        watched = Watched(api, SERVICE_MONITOR)
        await asyncio.sleep(1)
        assert watched.cache.synced.is_set()
        assert watched.cache.absent
        api.absent.clear()
        api.put(SERVICE_MONITOR, {"metadata": {"name": "m", "namespace": "ns"}})
        await asyncio.sleep(reflecting.ABSENT_MS / 500)
        assert watched.names == ["m"]
        assert not watched.cache.absent
        await watched.stop()

    run_virtual(main())


def test_only_the_scope_is_seen() -> None:
    async def story(w: Watched) -> None:
        w.api.put(NAMESPACE, {"metadata": {"name": "other"}})
        w.create("b", "other")
        await asyncio.sleep(1)
        assert w.names == ["a0", "a1"]
        assert w.cache.get(Key("other", "b")) is None

    play(story, scope=Scope("ns"))


def test_f35_a_listing_tells_what_is_there_once_and_prunes_only_what_is_not() -> None:
    """The base classes for sources there told 128 empty events first, pruned what was young, and fell over unknown deletions."""

    async def story(watched: Watched) -> None:
        assert watched.told == [("added", "a0"), ("added", "a1")]
        watched.told.clear()
        watched.cache.remove(Key("ns", "unknown"))
        watched.create("young")  # just before the listing that follows
        watched.api.remove(PREDICTOR, "a0", "ns")
        watched.api.compact()
        watched.api.cut_watches()
        await asyncio.sleep(5)
        assert watched.names == ["a1", "young"]
        assert sorted(set(watched.told)) == [("added", "young"), ("deleted", "a0")]
        assert len(watched.told) == 2

    play(story)
