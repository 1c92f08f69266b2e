"""The controller before a real API server whose connections are reset, silent, cut and refused: what it knows and writes is right.

The faults come from a proxy (`modelmesh.testing.controlplane.gate`). There is no node, so no pod ever runs: models wait, and what the
controller writes for them is complete when nothing waits any more.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from conftest import until

from modelmesh.adapters.clock import SystemClock
from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.adapters.api import Access, HttpApi
from modelmesh.kubernetes.kinds import Kind
from modelmesh.kubernetes.loop import reflector
from modelmesh.kubernetes.loop.controller import Controller
from modelmesh.kubernetes.loop.leader import Leadership, LeaseTimes
from modelmesh.kubernetes.ports import MeshCalls, MeshError
from modelmesh.kubernetes.settings import Settings
from modelmesh.testing.controlplane.api import FAILURES, MERGE, Api, ApiError
from modelmesh.testing.controlplane.gate import Answer, Gate, Passed
from modelmesh.testing.controlplane.plane import TOKEN, ControlPlane
from modelmesh.values.status import Status

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]
HOME = "faults"
SERVING = Path(__file__).parents[2] / "deploy" / "kubernetes" / "serving"
MODELS = 12
SEEN = (kinds.PREDICTOR, kinds.SERVING_RUNTIME, kinds.DEPLOYMENT, kinds.SERVICE, kinds.NETWORK_POLICY)
ATTEMPTS_MOST = 12
"""Of one reader in ten seconds: pauses begin at 0.1 s and are doubled."""


def _no_mesh(_namespace: str, address: str) -> MeshCalls:
    raise MeshError(Status.UNAVAILABLE, address)


class Run:
    """A controller behind a gate."""

    def __init__(self, gate: Gate, client: HttpApi, api: Api) -> None:
        self.gate, self.client, self.api = gate, client, api
        self.lines: list[dict[str, Any]] = []
        self.controller = Controller(
            api=client,
            dial=_no_mesh,
            clock=SystemClock(),
            rng=Random(1),
            settings=Settings(HOME, namespace_scope=True, inference_services=False, cluster_runtimes=False),
            log=lambda event, **fields: self.lines.append({"event": event, **fields}),
        )

    def path(self, kind: Kind, name: str = "") -> str:
        return kind.path(HOME, name)

    async def predictor(self, name: str, where: str = "p") -> None:
        spec = {"modelType": {"name": "fake"}, "storage": {"path": where, "key": "k"}}
        body = {
            "apiVersion": kinds.PREDICTOR.api_version,
            "kind": "Predictor",
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.api.apply(self.path(kinds.PREDICTOR, name), body, manager="user")

    async def runtime(self, name: str, image: str = "server:1") -> None:
        spec = {
            "supportedModelFormats": [{"name": "fake", "autoSelect": True}],
            "multiModel": True,
            "grpcEndpoint": "port:8085",
            "containers": [{"name": "server", "image": image}],
        }
        body = {
            "apiVersion": kinds.SERVING_RUNTIME.api_version,
            "kind": "ServingRuntime",
            "metadata": {"name": name},
            "spec": spec,
        }
        await self.api.apply(self.path(kinds.SERVING_RUNTIME, name), body, manager="user")

    async def right(self) -> bool:
        """Whether it knows what the API server has, and has written all that follows from it."""
        if not (self.controller.synced and self.controller.idle):
            return False
        for kind in SEEN:
            there = {
                (item["metadata"]["name"], item["metadata"]["resourceVersion"])
                for item in await self.api.items(self.path(kind))
                if kind in {kinds.PREDICTOR, kinds.SERVING_RUNTIME} or _is_ours(item)
            }
            cached = self.controller.world.caches[kind].within(HOME)
            if there != {(name, item["metadata"]["resourceVersion"]) for name, item in cached.items()}:
                return False
        for kind in (kinds.PREDICTOR, kinds.SERVING_RUNTIME):
            for item in await self.api.items(self.path(kind)):
                status = item.get("status") or {}
                if status.get("observedGeneration") != item["metadata"]["generation"]:
                    return False
        return await self._deployed()

    async def succeeds(self) -> bool:
        """Whether nothing that failed waits for its next try."""
        return not self.controller.failing

    async def _deployed(self) -> bool:
        images = {
            item["metadata"]["name"]: item["spec"]["containers"][0]["image"]
            for item in await self.api.items(self.path(kinds.SERVING_RUNTIME))
        }
        found = {
            item["metadata"]["name"].removeprefix("modelmesh-serving-"): next(
                one["image"] for one in item["spec"]["template"]["spec"]["containers"] if one["name"] == "server"
            )
            for item in await self.api.items(self.path(kinds.DEPLOYMENT))
            if "deletionTimestamp" not in item["metadata"]
        }
        return images == found

    async def settles(self, within_s: float = 60.0) -> None:
        """Wait until all is right, and no write is under way."""

        async def why() -> str:
            return json.dumps(self.lines[-20:], indent=1)

        await until(self.right, "what the controller knows and wrote is not right", within_s=within_s, why=why)

    def writes(self, since: int = 0) -> Counter[tuple[str, str]]:
        """How often each object was written, by method and path; Events are not counted."""
        made = [one for one in self.gate.passed[since:] if one.is_write and "/events" not in one.path]
        return Counter((one.method, one.path) for one in made)


def _is_ours(item: dict[str, Any]) -> bool:
    return (item["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") == "modelmesh-controller"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def home(plane: ControlPlane, serving: None) -> None:
    """The namespace of the controller, with its Secrets."""
    await plane.kubectl("create", "namespace", HOME)
    connection = json.dumps({"endpoints": plane.store, "root_prefix": "faults"})
    await plane.kubectl(
        "-n", HOME, "create", "secret", "generic", "model-serving-etcd", f"--from-literal=etcd_connection={connection}"
    )
    await plane.kubectl("-n", HOME, "create", "secret", "generic", "storage-config")


@asynccontextmanager
async def running(plane: ControlPlane, api: Api, folder: Path) -> AsyncIterator[Run]:
    token = folder / "token"
    token.write_text(TOKEN)
    async with Gate(plane.url, plane.authority) as gate, HttpApi(Access(gate.url, token)) as client:
        run = Run(gate, client, api)
        task = asyncio.ensure_future(run.controller.run())
        try:
            yield run
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for kind in (kinds.PREDICTOR, kinds.SERVING_RUNTIME):
                for item in await api.items(run.path(kind)):
                    await api.delete(run.path(kind, item["metadata"]["name"]))


@pytest_asyncio.fixture(loop_scope="session")
async def run(plane: ControlPlane, api: Api, home: None, tmp_path: Path) -> AsyncIterator[Run]:
    """A controller with a runtime and some models, for which all is written."""
    async with running(plane, api, tmp_path) as started:
        await started.runtime("r")
        for number in range(MODELS):
            await started.predictor(f"m{number}")
        await started.settles()
        yield started


async def change(run: Run, *, first: int = 0) -> None:
    """One resource of each sort is new, another, and gone."""
    await run.predictor(f"new{first}")
    await run.predictor("m0", f"p{first + 1}")
    await run.api.delete(run.path(kinds.PREDICTOR, f"m{first + 1}"))
    await run.runtime("r", f"server:{first + 2}")
    await run.runtime(f"extra{first}")


async def test_without_faults_each_object_is_written_once(run: Run) -> None:
    deployments = {key: count for key, count in run.writes().items() if "/deployments/" in key[1]}
    assert set(deployments.values()) == {1}
    # A Predictor's status may be written twice: it is looked at when its runtime comes and when its mesh is known.
    assert max(run.writes().values()) <= 3
    since = len(run.gate.passed)
    await change(run)
    await run.settles()
    assert max(run.writes(since).values()) <= 3


async def test_connections_that_are_reset_again_and_again(run: Run) -> None:
    since = len(run.gate.passed)
    reset = 0
    for turn in range(5):
        await change(run, first=turn)
        reset += run.gate.reset()
        await until(lambda: _watching(run), "the watches were not begun again")
        reset += run.gate.reset()
    assert reset > 50
    await run.settles()
    await until(run.succeeds, "a write that failed was not tried again", within_s=120)
    # Five images of one runtime, and a look may have written one whose answer was lost.
    assert max(count for (_, path), count in run.writes(since).items() if "/deployments/" in path) <= 10
    quiet = len(run.gate.passed)
    await run.settles()
    assert run.writes(quiet) == {}


async def _watching(run: Run) -> bool:
    return run.gate.watches >= len(SEEN)


async def test_watches_that_are_silent_are_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stays open, and nothing comes. A bookmark is due each minute; here the patience is shorter."""
    monkeypatch.setattr(reflector, "SILENCE_S", 3.0)
    run.gate.reset()  # those that wait with the longer patience
    await until(lambda: _watching(run), "the watches were not begun again")
    assert run.gate.freeze() >= len(SEEN)
    await change(run)
    await run.settles()


async def test_answers_that_end_in_the_middle(run: Run) -> None:
    rng = Random(7)
    left = 60

    def cut(_: Passed) -> int | None:
        nonlocal left
        left -= 1
        return rng.randrange(1, 4_000) if left > 0 else None

    run.gate.cut = cut
    run.gate.reset()
    await change(run)
    await run.settles()
    assert left <= 0, "so many answers were cut"
    since = len(run.gate.passed)
    await change(run, first=1)
    await run.settles()
    assert max(run.writes(since).values()) <= 3


async def test_writes_whose_answers_are_lost_are_not_made_twice(run: Run) -> None:
    lost: Counter[str] = Counter()

    def unheard(passed: Passed) -> bool:
        if not passed.is_write or lost[passed.path]:
            return False
        lost[passed.path] += 1
        return True

    run.gate.unheard = unheard
    generation = (await run.api.get(run.path(kinds.DEPLOYMENT, "modelmesh-serving-r")))["metadata"]["generation"]
    await run.runtime("r", "server:2")
    await run.runtime("later")
    await run.predictor("m0", "elsewhere")
    await run.settles()
    assert len(lost) >= 4
    found = await run.api.get(run.path(kinds.DEPLOYMENT, "modelmesh-serving-r"))
    assert found["metadata"]["generation"] == generation + 1, "the pods were changed once"
    names = [item["metadata"]["name"] for item in await run.api.items(run.path(kinds.DEPLOYMENT))]
    assert sorted(name for name in names if "later" in name) == ["modelmesh-serving-later"]


async def test_a_server_that_refuses_connections_for_a_while_is_asked_seldom(run: Run) -> None:
    readers = len(run.controller.world.caches) + len(run.controller.world.named)
    before = sum(run.client.requests.values())
    await run.gate.close()
    await change(run)
    await asyncio.sleep(10)
    asked = sum(run.client.requests.values()) - before
    assert asked <= readers * ATTEMPTS_MOST, run.client.requests
    await run.gate.open()
    await run.settles()


async def test_what_was_deleted_while_the_history_was_compacted_is_known(plane: ControlPlane, run: Run) -> None:
    """The server forgets its history when it starts, and etcd's is compacted. Deletions of the time between are in no watch."""
    await run.gate.close()
    await change(run)
    await plane.kubectl("-n", HOME, "delete", "servingruntime", "extra0")
    await plane.restart_api_server()
    for turn in range(1, 4):
        await run.predictor("m0", f"turn{turn}")  # newer revisions than those that the watches had
    await run.gate.open()
    await run.settles(90)
    said = [line for line in run.lines if line["event"] == "read failed" and "too old" in str(line.get("error"))]
    assert said, "no watch was refused for its revision, so this test shows nothing"


async def test_an_etcd_that_is_away_for_a_while(plane: ControlPlane, run: Run) -> None:
    """The API server cannot write then, and what it answers is old."""

    async def writable() -> bool:
        try:
            await run.api.call(
                "PATCH",
                run.path(kinds.PREDICTOR, "m0"),
                {"metadata": {"annotations": {"tried": "yes"}}},
                content=MERGE,
                timeout_s=2.0,
            )
        except FAILURES:
            return False
        return True

    async def away() -> bool:
        return not await writable()

    plane.stop("etcd")
    try:
        await until(away, "the API server writes without etcd")
        run.gate.reset()
    finally:
        plane.start("etcd")
    await until(writable, "the API server does not write again", within_s=60)
    await change(run)
    await run.settles(90)


async def test_definitions_that_are_upgraded_in_place(plane: ControlPlane, run: Run) -> None:
    """The server ends the watches of a kind whose definition changes."""
    where = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/predictors.serving.kserve.io"
    definition = await run.api.get(where)
    (version,) = definition["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields["later"] = {"type": "string"}
    await run.api.merge(where, {"spec": {"versions": [version]}})
    body = {
        "apiVersion": kinds.PREDICTOR.api_version,
        "kind": "Predictor",
        "metadata": {"name": "tried"},
        "spec": {"modelType": {"name": "fake"}, "later": "x"},
    }

    async def upgraded() -> bool:
        try:
            await run.api.apply(run.path(kinds.PREDICTOR, "tried"), body, manager="user", dry_run=True)
        except ApiError:
            return False
        return True

    await until(upgraded, "the definition does not have the new field")
    await change(run)
    await run.settles()
    await plane.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(SERVING / "crds"))
    await run.predictor("m3", "after")
    await run.settles()


async def test_without_the_policies_the_status_says_the_same(plane: ControlPlane, run: Run) -> None:
    sentence = "autoscalerClass: must be one of none, hpa"
    bad = {
        "apiVersion": kinds.SERVING_RUNTIME.api_version,
        "kind": "ServingRuntime",
        "metadata": {"name": "bad", "annotations": {"serving.kserve.io/autoscalerClass": "magic"}},
        "spec": {
            "supportedModelFormats": [{"name": "fake", "autoSelect": True}],
            "multiModel": True,
            "grpcEndpoint": "port:8085",
            "containers": [{"name": "server", "image": "server:1"}],
        },
    }
    where = run.path(kinds.SERVING_RUNTIME, "bad")
    with pytest.raises(ApiError, match=sentence):
        await run.api.apply(where, bad, manager="user")
    await plane.kubectl("delete", "validatingadmissionpolicybinding", "modelmesh-runtimes")

    async def taken() -> bool:
        try:
            await run.api.apply(where, bad, manager="user")
        except ApiError:
            return False
        return True

    async def said() -> bool:
        conditions = (await run.api.get(where)).get("status", {}).get("conditions", [])
        (message,) = [one["message"] for one in conditions if (one["type"], one["status"]) == ("Valid", "False")] or [
            ""
        ]
        return "autoscalerClass" in message and "must be one of none, hpa" in message

    try:
        await until(taken, "the policy is still there")
        await until(
            said,
            "the status does not say what is wrong",
            why=lambda: plane.kubectl("-n", HOME, "describe", "servingruntime", "bad"),
        )
        await run.api.delete(where)
        await run.settles()
    finally:
        await plane.kubectl("apply", "--server-side", "-k", str(SERVING / "admission"))


async def test_a_server_with_too_many_requests_is_given_the_time_it_asks_for(run: Run) -> None:
    refused: list[tuple[float, str]] = []
    passed: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()

    def answer(one: Passed) -> Answer | None:
        if not one.is_write or "/events" in one.path:
            return None
        if len([path for _, path in refused if path == one.path]) < 2:
            refused.append((loop.time(), one.path))
            return Answer(429, "too many requests", retry_after_s=2)
        passed.append((loop.time(), one.path))
        return None

    run.gate.answer = answer
    await run.runtime("r", "server:9")
    await run.settles()
    path = run.path(kinds.DEPLOYMENT, "modelmesh-serving-r")
    at = [when for when, where in refused + passed if where == path]
    assert len(at) >= 3
    assert all(later - earlier >= 2.0 for earlier, later in pairwise(at[:3]))


async def test_the_lease_is_kept_through_resets_and_lost_answers(run: Run) -> None:
    times = LeaseTimes(duration_s=15, renew_s=10, retry_s=1)
    rng, lost = Random(3), 0
    begun: list[str] = []

    def leader(identity: str) -> asyncio.Task[None]:
        leadership = Leadership(
            api=run.client,
            clock=SystemClock(),
            rng=Random(2),
            key=kinds.Key(HOME, "faults-lock"),
            identity=identity,
            times=times,
        )

        async def work() -> None:
            begun.append(identity)
            await asyncio.Event().wait()

        return asyncio.ensure_future(leadership.run(work))

    first = leader("one")
    second: asyncio.Task[None] | None = None
    try:
        await until(lambda: _has(begun, 1), "nobody leads")
        second = leader("two")

        def unheard(passed: Passed) -> bool:
            nonlocal lost
            lose = passed.is_write and "/leases/" in passed.path and rng.random() < 0.3
            lost += lose
            return lose

        run.gate.unheard = unheard
        for _ in range(10):
            await asyncio.sleep(1)
            run.gate.reset()
        assert lost
        assert begun == ["one"]
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

        async def why() -> str:
            lease = await run.api.get(run.path(kinds.LEASE, "faults-lock"))
            return f"{second} {lease['spec']} {[one for one in run.gate.passed if '/leases' in one.path][-8:]}"

        await until(lambda: _has(begun, 2), "nobody follows", why=why)
        assert begun == ["one", "two"]
    finally:
        for task in (first, second):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _has(begun: list[str], count: int) -> bool:
    return len(begun) >= count
