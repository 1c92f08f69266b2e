"""What the controller relies on of an API server. Each case runs on the one in memory, over HTTP, and on a real one."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest

from modelmesh.kubernetes.kinds import CONFIG_MAP, DEPLOYMENT, LEASE, SERVICE_MONITOR, Key, Object
from modelmesh.kubernetes.ports import Api, Change, ConflictError, GoneError, NotFoundError, Scope, WatchEvent

NAMESPACE = "contract"
WAIT_S = 10


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> Object:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels or {"of": "contract"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def deployment(name: str, replicas: int | None, image: str = "a") -> Object:
    labels = {"app": name}
    spec: Object = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}},
    }
    if replicas is not None:
        spec["replicas"] = replicas
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def key(name: str) -> Key:
    return Key(NAMESPACE, name)


async def following(events: AsyncGenerator[WatchEvent, None]) -> WatchEvent:
    """The next event that is no bookmark."""
    async with asyncio.timeout(WAIT_S):
        async for event in events:
            if event.change is not Change.BOOKMARK:
                return event
    raise AssertionError("the watch ended")


async def objects_come_in_pages(api: Api) -> None:
    for number in range(7):
        await api.apply(CONFIG_MAP, config_map(f"page-{number}", {"of": "pages"}))
    found, after, pages = [], "", 0
    while True:
        page = await api.list(CONFIG_MAP, Scope(NAMESPACE, "of=pages"), limit=3, after=after)
        found += [item["metadata"]["name"] for item in page.items]
        pages += 1
        if not page.more:
            break
        after = page.more
    assert found == [f"page-{number}" for number in range(7)]
    assert pages == 3
    one = await api.list(CONFIG_MAP, Scope(fields="metadata.name=page-4"), limit=10)
    assert [(item["kind"], item["metadata"]["namespace"]) for item in one.items] == [("ConfigMap", NAMESPACE)]


async def a_watch_tells_what_came_after_a_listing(api: Api) -> None:
    scope = Scope(NAMESPACE, "of=watch")
    await api.apply(CONFIG_MAP, config_map("w1", {"of": "watch"}, a="1"))
    page = await api.list(CONFIG_MAP, scope, limit=10)
    await api.apply(CONFIG_MAP, config_map("w2", {"of": "watch"}))
    async with aclosing(api.watch(CONFIG_MAP, scope, revision=page.revision)) as events:
        told = [await following(events)]
        await api.apply(CONFIG_MAP, config_map("w1", {"of": "watch"}, a="2"))
        told.append(await following(events))
        await api.delete(CONFIG_MAP, key("w1"))
        told.append(await following(events))
    assert [(event.change, event.item["metadata"]["name"]) for event in told] == [
        (Change.ADDED, "w2"),
        (Change.MODIFIED, "w1"),
        (Change.DELETED, "w1"),
    ]
    async with aclosing(api.watch(CONFIG_MAP, scope, revision=told[0].item["metadata"]["resourceVersion"])) as events:
        assert (await following(events)).change is Change.MODIFIED


async def what_is_not_there_is_not_found(api: Api) -> None:
    assert await api.read(CONFIG_MAP, key("nobody")) is None
    await api.delete(CONFIG_MAP, key("nobody"))
    with pytest.raises(NotFoundError):
        await api.merge(CONFIG_MAP, key("nobody"), {"data": {"a": "1"}})


async def applying_the_same_again_changes_nothing(api: Api) -> None:
    item = config_map("same", a="1", b="2")
    first = await api.apply(CONFIG_MAP, item)
    again = await api.apply(CONFIG_MAP, item)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def what_is_applied_no_more_goes_and_what_is_anothers_stays(api: Api) -> None:
    await api.apply(CONFIG_MAP, config_map("fields", a="1", b="2"))
    patch = {"data": {"theirs": "x"}, "metadata": {"annotations": {"their/own": "y"}}}
    await api.merge(CONFIG_MAP, key("fields"), patch, manager="somebody")
    applied = await api.apply(CONFIG_MAP, config_map("fields", a="3"))
    assert applied["data"] == {"a": "3", "theirs": "x"}
    assert applied["metadata"]["annotations"] == {"their/own": "y"}


async def what_another_changed_is_taken_back_by_force(api: Api) -> None:
    await api.apply(CONFIG_MAP, config_map("force", a="1"))
    await api.merge(CONFIG_MAP, key("force"), {"data": {"a": "theirs"}}, manager="somebody")
    applied = await api.apply(CONFIG_MAP, config_map("force", a="1"))
    assert applied["data"] == {"a": "1"}


async def pods_are_handed_over_without_a_change_of_their_number(api: Api) -> None:
    await api.apply(DEPLOYMENT, deployment("scaled", 3))
    await api.merge(DEPLOYMENT, key("scaled"), {"spec": {"replicas": 4}}, manager="autoscaler")
    applied = await api.apply(DEPLOYMENT, deployment("scaled", None, "b"))
    assert applied["spec"]["replicas"] == 4
    assert applied["spec"]["template"]["spec"]["containers"][0]["image"] == "b"


async def pods_that_nobody_else_set_are_handed_over_too(api: Api) -> None:
    applied = await api.apply(DEPLOYMENT, deployment("handed", 3))
    metadata = {**deployment("handed", None)["metadata"], "resourceVersion": applied["metadata"]["resourceVersion"]}
    kept = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": 3}}
    await api.apply(DEPLOYMENT, kept, manager="handover")
    with pytest.raises(ConflictError):
        await api.apply(DEPLOYMENT, kept, manager="handover")
    applied = await api.apply(DEPLOYMENT, deployment("handed", None))
    assert applied["spec"]["replicas"] == 3


async def a_write_on_an_old_revision_is_a_conflict(api: Api) -> None:
    first = await api.apply(CONFIG_MAP, config_map("old", a="1"))
    revision = first["metadata"]["resourceVersion"]
    await api.apply(CONFIG_MAP, config_map("old", a="2"))
    with pytest.raises(ConflictError):
        await api.merge(CONFIG_MAP, key("old"), {"metadata": {"resourceVersion": revision}, "data": {"a": "3"}})
    with pytest.raises(ConflictError):
        await api.replace(CONFIG_MAP, first)


async def creating_what_is_there_is_a_conflict(api: Api) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "lock", "namespace": NAMESPACE},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
    }
    created = await api.create(LEASE, lease)
    with pytest.raises(ConflictError):
        await api.create(LEASE, lease)
    await api.replace(LEASE, {**created, "spec": {**created["spec"], "holderIdentity": "b"}})
    with pytest.raises(ConflictError):
        await api.replace(LEASE, created)


async def a_status_is_written_apart_from_the_rest(api: Api) -> None:
    applied = await api.apply(DEPLOYMENT, deployment("status", 0))
    status = {"status": {"observedGeneration": 1, "replicas": 0}, "spec": {"replicas": 9}}
    patched = await api.merge(DEPLOYMENT, key("status"), status, subresource="status")
    assert patched["spec"]["replicas"] == 0
    assert patched["status"]["observedGeneration"] == 1
    assert patched["metadata"]["generation"] == applied["metadata"]["generation"]
    scaled = await api.merge(DEPLOYMENT, key("status"), {"spec": {"replicas": 1}, "status": {"replicas": 7}})
    assert scaled["status"].get("replicas", 0) != 7
    assert scaled["metadata"]["generation"] == applied["metadata"]["generation"] + 1


async def only_the_object_of_a_uid_is_deleted(api: Api) -> None:
    await api.apply(CONFIG_MAP, config_map("uid"))
    with pytest.raises(ConflictError):
        await api.delete(CONFIG_MAP, key("uid"), uid="another")
    assert await api.read(CONFIG_MAP, key("uid")) is not None


async def a_kind_that_is_not_installed_is_not_found(api: Api) -> None:
    with pytest.raises(NotFoundError):
        await api.list(SERVICE_MONITOR, Scope(), limit=1)


async def a_revision_that_is_no_longer_kept_is_gone(api: Api, compact: Callable[[], Awaitable[None]]) -> None:
    first = await api.apply(CONFIG_MAP, config_map("gone", a="1"))
    for number in range(3):
        await api.apply(CONFIG_MAP, config_map("gone", a=f"{number}"))
    await compact()
    with pytest.raises(GoneError):
        async with aclosing(
            api.watch(CONFIG_MAP, Scope(NAMESPACE), revision=first["metadata"]["resourceVersion"])
        ) as events:
            await following(events)


CASES = (
    objects_come_in_pages,
    a_watch_tells_what_came_after_a_listing,
    what_is_not_there_is_not_found,
    applying_the_same_again_changes_nothing,
    what_is_applied_no_more_goes_and_what_is_anothers_stays,
    what_another_changed_is_taken_back_by_force,
    pods_are_handed_over_without_a_change_of_their_number,
    pods_that_nobody_else_set_are_handed_over_too,
    a_write_on_an_old_revision_is_a_conflict,
    creating_what_is_there_is_a_conflict,
    a_status_is_written_apart_from_the_rest,
    only_the_object_of_a_uid_is_deleted,
    a_kind_that_is_not_installed_is_not_found,
)
