"""The controller: caches, queues and reconciles, and which change leads to which look.

Every look is at the present state of one thing, so it does not matter how often, or why, it happens. All caches are filled
before the first; then everything is looked at once, and what is as it must be is not written.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from enum import Enum
from functools import partial
from random import Random
from typing import Any, NamedTuple

from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.config import CONFIG_MAP
from modelmesh.kubernetes.kinds import Key, Kind, Object
from modelmesh.kubernetes.loop.apply import Applier
from modelmesh.kubernetes.loop.cache import Cache
from modelmesh.kubernetes.loop.demands import Demands
from modelmesh.kubernetes.loop.mesh import Mesh
from modelmesh.kubernetes.loop.models import OWNERS, Models
from modelmesh.kubernetes.loop.namespaces import Namespaces
from modelmesh.kubernetes.loop.queue import Queue
from modelmesh.kubernetes.loop.recorder import Recorder
from modelmesh.kubernetes.loop.reflector import Reflector
from modelmesh.kubernetes.loop.runtimes import Runtimes
from modelmesh.kubernetes.loop.services import Services
from modelmesh.kubernetes.loop.status_writer import StatusWriter
from modelmesh.kubernetes.loop.wanted_models import is_for_mesh
from modelmesh.kubernetes.loop.world import World, owning_runtime
from modelmesh.kubernetes.ports import Api, ApiError, MeshCalls, MeshError, NotFoundError, Scope
from modelmesh.kubernetes.render import Owner
from modelmesh.kubernetes.render.objects import CONTROLLER, SERVICE_LABEL, TYPE_CONSTRAINTS
from modelmesh.kubernetes.settings import Settings
from modelmesh.kubernetes.status.events import Notice
from modelmesh.ports import Clock

MODELS_AT_ONCE = 64
"""Models of one namespace that are looked at at a time: mostly they wait for a common call to the mesh."""

OBJECTS_AT_ONCE = 4
"""Runtimes and shared objects of one namespace that are looked at at a time."""

LOOK_BOUND_S = 60.0
RESYNC_S = 3_600.0
"""How often everything is looked at without a reason, spread over the time."""

FORBIDDEN = 403

_SCOPES = {
    kinds.DEPLOYMENT: f"app.kubernetes.io/managed-by={CONTROLLER}",
    kinds.AUTOSCALER: f"app.kubernetes.io/managed-by={CONTROLLER}",
    kinds.DISRUPTION_BUDGET: f"app.kubernetes.io/managed-by={CONTROLLER}",
    kinds.SERVICE: SERVICE_LABEL,
    kinds.ENDPOINT_SLICE: SERVICE_LABEL,
    kinds.NETWORK_POLICY: f"app.kubernetes.io/managed-by={CONTROLLER}",
    kinds.SERVICE_MONITOR: f"app.kubernetes.io/managed-by={CONTROLLER}",
}
"""Labels of the objects that are read."""


class Target(Enum):
    """What a look is at."""

    NAMESPACE = "namespace"
    RUNTIME = "runtime"
    CLUSTER_STATUS = "status of a runtime of the cluster"


class ObjectKey(NamedTuple):
    """A runtime in a namespace; a namespace, whose `name` is empty; or what has a name and no namespace."""

    target: Target
    namespace: str
    name: str


class ModelKey(NamedTuple):
    """The resource of a model."""

    kind: Kind
    key: Key


Dial = Callable[[str, str], MeshCalls]
"""Opens a connection to an instance: namespace and address."""


class Controller:
    """One controller, for as long as it leads.

    Args:
        dial: Opens connections to instances.
        log: Writes a line: an event's name, and fields.
        owner: In namespace scope: what owns the shared objects of the namespace.
    """

    def __init__(
        self,
        *,
        api: Api,
        dial: Dial,
        clock: Clock,
        rng: Random,
        settings: Settings,
        log: Callable[..., object] = lambda *_, **__: None,
        owner: Owner | None = None,
    ) -> None:
        self._api = api
        self._dial = dial
        self._clock = clock
        self._rng = rng
        self._settings = settings
        self._log = log
        self.world = World(settings)
        self.meshes: dict[str, Mesh] = {}
        self._mesh_tasks: dict[str, asyncio.Task[None]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.recorder = Recorder(api, clock, failed=lambda error: log("event not written", error=str(error)))
        self.demands = Demands(
            self.world,
            self.meshes,
            clock,
            changed=lambda namespace, name: self.objects.add(ObjectKey(Target.RUNTIME, namespace, name)),
            failed=lambda namespace, error: self._mesh_failed(namespace, "", error),
        )
        self.services = Services(
            world=self.world,
            api=api,
            clock=clock,
            applier=Applier(api, self.world.find),
            statuses=StatusWriter(api),
            recorder=self.recorder,
            log=log,
            demands=self.demands,
            meshes=self.meshes,
        )
        self._models = Models(self.services)
        self._runtimes = Runtimes(self.services, self._say_of_cluster)
        self._namespaces = Namespaces(self.services, owner)
        self.models: Queue[ModelKey] = Queue(
            lambda key: self._models.reconcile(key.kind, key.key),
            clock=clock,
            rng=rng,
            group=lambda key: key.key.namespace,
            per_group=MODELS_AT_ONCE,
            bound_s=LOOK_BOUND_S,
            failed=self._failed,
        )
        self.objects: Queue[ObjectKey] = Queue(
            self._look,
            clock=clock,
            rng=rng,
            group=lambda key: key.namespace,
            per_group=OBJECTS_AT_ONCE,
            bound_s=LOOK_BOUND_S,
            failed=self._failed,
        )
        self.failures: dict[str, int] = {}
        """How often which part failed."""
        self._follow()

    @property
    def synced(self) -> bool:
        """Whether all that must be known for a look is known."""
        return all(cache.synced.is_set() for cache in self._first_caches())

    @property
    def idle(self) -> bool:
        """Whether nothing is to be looked at now."""
        return self.models.idle and self.objects.idle

    @property
    def failing(self) -> bool:
        """Whether something is to be tried again because it failed."""
        return self.models.failing or self.objects.failing

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            for kind in self.world.caches:
                self._reflect(self.world.caches[kind], self._scope(kind))
            self._read_names()
            for cache in self._first_caches():
                await cache.synced.wait()
            for namespace in self.world.namespaces():
                self._namespace_changed(namespace)
            self._read_names()
            self._keep("recorder", self.recorder.run())
            self._keep("objects", self.objects.run())
            self._keep("models", self.models.run())
            self._keep("resync", self._resync())
            self._keep("demands", self.demands.run())
            self._log("working", namespaces=sum(map(self.world.enabled, self.world.namespaces())))
            await self._ended
        finally:
            await _end([*self._tasks.values(), *self._mesh_tasks.values()])

    def _first_caches(self) -> list[Cache]:
        """What every look needs. What a configuration names is waited for by the looks that need it."""
        first = {(kinds.CONFIG_MAP, CONFIG_MAP), (kinds.CONFIG_MAP, TYPE_CONSTRAINTS)}
        first.add((kinds.SECRET, self._settings.store_secret))
        return [*self.world.caches.values(), *(self.world.named[name] for name in first if name in self.world.named)]

    async def _resync(self) -> None:
        """Look at everything once in a while, a little at a time."""
        while True:
            keys: list[ModelKey | ObjectKey] = [
                *(ModelKey(kind, key) for kind in OWNERS for key, _ in self.world.caches[kind].items()),
                *(self._object_keys()),
            ]
            self._rng.shuffle(keys)
            for key in keys:
                await self._clock.sleep(int(RESYNC_S * 1000 / len(keys)))
                if isinstance(key, ModelKey):
                    self.models.add(key)
                else:
                    self.objects.add(key)
            if not keys:
                await self._clock.sleep(int(RESYNC_S * 1000))

    def _object_keys(self) -> list[ObjectKey]:
        found = []
        for namespace in self.world.namespaces():
            if self.world.enabled(namespace):
                found.append(ObjectKey(Target.NAMESPACE, namespace, ""))
                found += [ObjectKey(Target.RUNTIME, namespace, name) for name in self.world.runtime_names(namespace)]
        return found

    async def _look(self, key: ObjectKey) -> float | None:
        match key.target:
            case Target.NAMESPACE:
                return await self._namespaces.reconcile(key.namespace)
            case Target.RUNTIME:
                return await self._runtimes.reconcile(key.namespace, key.name)
            case Target.CLUSTER_STATUS:
                await self._runtimes.say(key.name)
                return None

    def _say_of_cluster(self, name: str) -> None:
        self.objects.add(ObjectKey(Target.CLUSTER_STATUS, "", name))

    def _failed(self, key: ModelKey | ObjectKey, error: Exception, again_s: float) -> None:
        what = key.kind.name if isinstance(key, ModelKey) else key.target.value
        name = str(key.key) if isinstance(key, ModelKey) else f"{key.namespace}/{key.name}"
        self._count(what)
        expected = isinstance(error, ApiError | MeshError | TimeoutError)
        text = str(error) or type(error).__name__
        self._log(
            "look failed",
            what=what,
            name=name,
            error=text if expected else f"{type(error).__name__}: {text}",
            again_s=round(again_s, 1),
        )

    def _count(self, what: str) -> None:
        self.failures[what] = self.failures.get(what, 0) + 1

    # --- reading ----------------------------------------------------------------------------------

    def _scope(self, kind: Kind) -> Scope:
        namespace = self._settings.namespace if self._settings.namespace_scope and kind.namespaced else ""
        return Scope(namespace, _SCOPES.get(kind, ""))

    def _reflect(self, cache: Cache, scope: Scope) -> None:
        if self._left_out(cache.kind):
            cache.take_all({}, absent=True)
            return
        reflector = Reflector(
            api=self._api, cache=cache, scope=scope, clock=self._clock, rng=self._rng, failed=self._reading_failed
        )
        self._keep(f"read {cache.kind.plural} {scope.fields}", reflector.run())

    def _left_out(self, kind: Kind) -> bool:
        """Kinds that this controller does not read."""
        settings = self._settings
        return (
            (kind is kinds.INFERENCE_SERVICE and not settings.inference_services)
            or (kind is kinds.CLUSTER_RUNTIME and (settings.namespace_scope or not settings.cluster_runtimes))
            or (kind is kinds.NAMESPACE and settings.namespace_scope)
        )

    def _reading_failed(self, kind: Kind, error: ApiError) -> None:
        if isinstance(error, NotFoundError):
            self._log("kind is not installed", kind=kind.name)
            return
        self._count(f"read {kind.name}")
        self._log("read failed", kind=kind.name, error=str(error))
        if kind is kinds.SECRET and error.code == FORBIDDEN:
            for namespace in self.world.namespaces():
                self._add_runtimes(namespace)  # they say so

    def _read_names(self) -> None:
        """Begin to read the ConfigMaps and Secrets that the configuration names by now."""
        new = sorted(self.world.needed_names() - self.world.named.keys(), key=lambda entry: (entry[0].name, entry[1]))
        for kind, name in new:
            cache = self.world.named[kind, name] = Cache(kind)
            cache.follow(self._secret_changed if kind is kinds.SECRET else self._config_map_changed)
            scope = self._scope(kind)
            self._reflect(cache, Scope(scope.namespace, "", f"metadata.name={name}"))
            self._keep(f"wait for {kind.plural} {name}", self._read_first(cache))

    async def _read_first(self, cache: Cache) -> None:
        """What waited for the objects of a name can be looked at when they are known, also if there are none."""
        await cache.synced.wait()
        for namespace in self.world.namespaces():
            self._add_namespace(namespace)
            self._add_runtimes(namespace)

    def _keep(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a part beside us. A bug in it ends the controller, which is then begun again."""
        task = self._tasks[name] = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._part_ended)

    def _part_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._ended.done():
            self._ended.set_exception(error)

    # --- which change leads to which look ---------------------------------------------------------

    def _follow(self) -> None:
        caches = self.world.caches
        for kind in OWNERS:
            caches[kind].follow(partial(self._model_changed, kind))
        for kind in (kinds.SERVING_RUNTIME, kinds.CLUSTER_RUNTIME):
            caches[kind].follow(partial(self._runtime_changed, kind))
        for kind in (kinds.DEPLOYMENT, kinds.AUTOSCALER, kinds.DISRUPTION_BUDGET):
            caches[kind].follow(self._owned_changed)
        for kind in (kinds.SERVICE, kinds.NETWORK_POLICY, kinds.SERVICE_MONITOR):
            caches[kind].follow(lambda key, _before, _now: self._add_namespace(key.namespace))
        caches[kinds.NAMESPACE].follow(self._namespace_seen)
        caches[kinds.CLAIM].follow(self._claim_changed)
        caches[kinds.ENDPOINT_SLICE].follow(lambda key, _before, _now: self._find_instances(key.namespace))

    def _model_changed(self, kind: Kind, key: Key, before: Object | None, now: Object | None) -> None:
        if not _same_but_for_status(before, now) and self.world.models.changed(kind, key, now):
            self._add_runtimes(key.namespace)
            self.demands.stir()
        self.models.add(ModelKey(kind, key))

    def _runtime_changed(self, kind: Kind, key: Key, before: Object | None, now: Object | None) -> None:
        if now is None:
            self.world.forget_runtime(kind, key)
            self.services.statuses.forget(kind, key)
        if _same_but_for_status(before, now):
            return
        if not key.namespace:
            self._say_of_cluster(key.name)
        for namespace in [key.namespace] if key.namespace else self.world.namespaces():
            self._add_namespace(namespace)
            self.objects.add(ObjectKey(Target.RUNTIME, namespace, key.name))
            self._add_models(namespace)

    def _owned_changed(self, key: Key, before: Object | None, now: Object | None) -> None:
        name = owning_runtime(now or before or {})
        if name is not None:
            self.objects.add(ObjectKey(Target.RUNTIME, key.namespace, name))

    def _claim_changed(self, key: Key, before: Object | None, now: Object | None) -> None:
        if (before is None) != (now is None):
            self._add_runtimes(key.namespace)

    def _secret_changed(self, key: Key, _before: Object | None, _now: Object | None) -> None:
        if key.name == self._settings.store_secret and key.namespace == self._settings.namespace:
            for namespace in self.world.namespaces():
                self._add_namespace(namespace)
        self._add_namespace(key.namespace)
        self._add_runtimes(key.namespace)

    def _config_map_changed(self, key: Key, _before: Object | None, now: Object | None) -> None:
        if key.name != CONFIG_MAP:
            self._add_namespace(key.namespace)
            return
        for namespace in self.world.namespaces() if key.namespace == self._settings.namespace else [key.namespace]:
            self._namespace_changed(namespace)
        reading = self.world.reading(key.namespace)
        for problem in reading.problems if now is not None else ():
            self._log("configuration", source=problem.source, path=problem.path, problem=problem.message)
            notice = Notice(problem.fatal, "Configuration", f"{problem.path}: {problem.message}")
            self.recorder.record(kinds.CONFIG_MAP, now or {}, notice)
        self._read_names()

    def _namespace_seen(self, key: Key, before: Object | None, now: Object | None) -> None:
        if now is None:
            self.world.forget_namespace(key.name)
        labels = [(item or {"metadata": {}})["metadata"].get("labels") for item in (before, now)]
        ends = now is None or "deletionTimestamp" in now["metadata"]
        if before is None or ends or labels[0] != labels[1]:
            self._namespace_changed(key.name)

    def _namespace_changed(self, namespace: str) -> None:
        """Anything of a namespace may have changed: whether it is served, how, and where its mesh is."""
        self._find_instances(namespace)
        self._add_namespace(namespace)
        self._add_runtimes(namespace)
        self._add_models(namespace)

    def _add_namespace(self, namespace: str) -> None:
        self.objects.add(ObjectKey(Target.NAMESPACE, namespace, ""))

    def _add_runtimes(self, namespace: str) -> None:
        for name in self.world.runtime_names(namespace):
            self.objects.add(ObjectKey(Target.RUNTIME, namespace, name))

    def _add_models(self, namespace: str) -> None:
        for kind in OWNERS:
            for name in list(self.world.caches[kind].within(namespace)):
                self.models.add(ModelKey(kind, Key(namespace, name)))

    # --- meshes -----------------------------------------------------------------------------------

    def _find_instances(self, namespace: str) -> None:
        """Follow the mesh of a namespace that is served, at the instances that it has now."""
        config = self.world.config(namespace) if self.world.enabled(namespace) else None
        if config is None:
            if self.meshes.pop(namespace, None) is not None:
                self._mesh_tasks.pop(namespace).cancel()
            return
        mesh = self.meshes.get(namespace)
        if mesh is None:
            mesh = self.meshes[namespace] = Mesh(
                dial=lambda address: self._dial(namespace, address),
                resources=lambda: self._vmodels_of(namespace),
                clock=self._clock,
                rng=self._rng,
                changed=lambda name: self._vmodel_changed(namespace, name),
                failed=lambda address, error: self._mesh_failed(namespace, address, error),
            )
            task = asyncio.get_running_loop().create_task(mesh.run(), name=f"mesh {namespace}")
            task.add_done_callback(self._part_ended)
            self._mesh_tasks[namespace] = task
        mesh.use(self.world.addresses(namespace, config))

    def _vmodels_of(self, namespace: str) -> Iterator[tuple[str, str]]:
        """The vmodels that the resources of a namespace ask for, and their owners."""
        for kind, owner in OWNERS.items():
            for name, item in self.world.caches[kind].within(namespace).items():
                if is_for_mesh(kind, item):
                    yield name, owner

    def _mesh_failed(self, namespace: str, address: str, error: MeshError) -> None:
        self._count("mesh")
        self._log("mesh failed", namespace=namespace, address=address, error=str(error))

    def _vmodel_changed(self, namespace: str, name: str | None) -> None:
        """The mesh reported a vmodel; None: its whole state, also of vmodels without a resource."""
        if name is None:
            self._add_models(namespace)
        mesh = self.meshes.get(namespace)
        for one in [name] if name is not None else mesh.names() if mesh is not None else ():
            standing = mesh.get(one) if mesh is not None else None
            for kind, owner in OWNERS.items():
                key = Key(namespace, one)
                known = self.world.caches[kind].get(key) is not None
                absent = self.world.caches[kind].absent
                if known or (not absent and standing is not None and standing.owner == owner):
                    self.models.add(ModelKey(kind, key))


def _same_but_for_status(before: Object | None, now: Object | None) -> bool:
    """Whether only the status of a resource changed, which the controller writes itself."""
    if before is None or now is None:
        return False
    kept = ("labels", "annotations", "deletionTimestamp", "generation", "uid")
    return before.get("spec") == now.get("spec") and all(
        before["metadata"].get(name) == now["metadata"].get(name) for name in kept
    )


async def _end(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
