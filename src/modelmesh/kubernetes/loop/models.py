"""One reconciliation of a model's resource: compare it with the mesh, apply the difference, write the status."""

from dataclasses import replace

from modelmesh._proto import model_mesh_pb2 as wire
from modelmesh.declared import Declared, Wanted
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.kinds import INFERENCE_SERVICE, PREDICTOR, Key, Kind, Object
from modelmesh.kubernetes.loop.mesh import Mesh
from modelmesh.kubernetes.loop.services import Services
from modelmesh.kubernetes.loop.wanted_models import is_for_mesh, read_model
from modelmesh.kubernetes.ports import MeshError
from modelmesh.kubernetes.status import resources
from modelmesh.kubernetes.status.events import model_events
from modelmesh.kubernetes.status.models import (
    Endpoints,
    ModelStatus,
    Reason,
    of_answer,
    of_invalid,
    of_no_pods,
    of_taken,
    of_unserved,
    wants_load,
)
from modelmesh.kubernetes.values import MeshModel, MeshState, MeshVModel
from modelmesh.values.status import Status

OWNERS = {PREDICTOR: "ksp", INFERENCE_SERVICE: "isvc"}
"""Whose vmodels the models of a kind are."""

_READ = {PREDICTOR: resources.read_predictor, INFERENCE_SERVICE: resources.read_inference_service}
_WRITE = {PREDICTOR: resources.write_predictor, INFERENCE_SERVICE: resources.write_inference_service}

RETRY_S = 5.0
RETRY_MAX_S = 80.0
"""A model that no instance can take is tried again: pods and their labels come without a word."""

_WAITS = {Reason.RUNTIME_UNHEALTHY, Reason.NO_RUNTIME, Reason.RUNTIME_UNKNOWN}


class Models:
    """The reconcile of InferenceServices and Predictors."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._world = services.world
        self._tries: dict[tuple[Kind, Key], tuple[int, int]] = {}
        """Of models that no instance can take: how often each was tried, and when it is tried again."""
        self._arrivals: dict[tuple[Kind, Key], int] = {}
        """`Mesh.arrivals` when a model was looked at last."""

    async def reconcile(self, kind: Kind, key: Key) -> float | None:
        """Look at one; returns in how many seconds to look again. Raises ApiError, MeshError."""
        item = self._world.caches[kind].get(key)
        mesh = self._services.meshes.get(key.namespace)
        if item is None or not is_for_mesh(kind, item):
            self._tries.pop((kind, key), None)
            self._arrivals.pop((kind, key), None)
            self._services.statuses.forget(kind, key)
            return await self._gone(kind, key, mesh)
        item = self._services.statuses.latest(kind, item)
        config = self._world.config(key.namespace)
        if mesh is None or config is None or not self._world.enabled(key.namespace):
            return None  # when its namespace is served, it is looked at again
        declared = read_model(kind, item, self._world.usable_runtimes(key.namespace, config))
        old = _READ[kind](item.get("status"))
        now_ms = self._services.clock.now_ms()
        standing = mesh.get(key.name)
        if not declared.wanted:
            ours = standing if standing is not None and standing.owner == OWNERS[kind] else None
            new = of_invalid(ours, old, [one for one in declared.problems if one.fatal], now_ms=now_ms)
            return await self._say(kind, item, declared, old, new, config)
        wanted = declared.wanted[0]
        if not mesh.reachable:
            new = of_no_pods(old, wanted.model_id, now_ms=now_ms)
        elif not mesh.synced:
            return None  # when it is, all its models are looked at again
        else:
            _, not_before_ms = self._tries.get((kind, key), (0, 0))
            may_load = self._services.clock.monotonic_ms() >= not_before_ms
            came = self._arrivals.get((kind, key), mesh.arrivals) < mesh.arrivals
            new = await self._enact(mesh, wanted, standing, old, may_load=may_load, came=came)
            self._arrivals[kind, key] = mesh.arrivals
        return await self._say(kind, item, declared, old, new, config)

    async def _enact(
        self,
        mesh: Mesh,
        wanted: Wanted,
        standing: MeshVModel | None,
        old: ModelStatus,
        *,
        may_load: bool,
        came: bool,
    ) -> ModelStatus:
        """Make the mesh have the model, if it has not; the status that follows. Raises MeshError.

        Args:
            mesh: Of the namespace.
            wanted: What the resource asks for.
            standing: What the mesh has.
            old: The status before.
            may_load: Whether a model that no instance could take may be tried again.
            came: Whether instances came since the last look, on which a failed load may succeed.
        """
        now_ms = self._services.clock.now_ms()
        if standing is not None and standing.owner != wanted.owner:
            return of_taken(old, wanted.model_id, now_ms=now_ms)
        load = wants_load(old)
        if (
            standing is None
            or standing.target_id != wanted.model_id
            or (load and may_load and _can_load(standing, came=came))
        ):
            request = wire.SetVModelRequest(
                vModelId=wanted.name,
                targetModelId=wanted.model_id,
                modelInfo=wire.ModelInfo(type=wanted.spec.type, path=wanted.spec.model_path, key=wanted.spec.key),
                autoDeleteTargetModel=True,
                owner=wanted.owner,
                loadNow=load,
            )
            try:
                standing = await mesh.set(request)
            except MeshError as error:
                if error.code is Status.ALREADY_EXISTS:
                    return of_taken(old, wanted.model_id, now_ms=now_ms)
                raise
        new = of_answer(standing, old, now_ms=now_ms)
        return of_unserved(new, old, wanted.model_id, wanted.choice, now_ms=now_ms)

    async def _gone(self, kind: Kind, key: Key, mesh: Mesh | None) -> float | None:
        """The resource asks for nothing any more: delete its vmodel, if there is one. Raises MeshError."""
        standing = mesh.get(key.name) if mesh is not None else None
        if mesh is not None and standing is not None and standing.owner == OWNERS[kind] and mesh.reachable:
            await mesh.delete(key.name, OWNERS[kind])
            self._services.log("vmodel deleted", vmodel=str(key), owner=OWNERS[kind])
        return None

    async def _say(
        self, kind: Kind, item: Object, declared: Declared, old: ModelStatus, new: ModelStatus, config: Config
    ) -> float | None:
        """Write the status and the Events. Raises ApiError."""
        namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
        new = replace(new, endpoints=endpoints(config, namespace))
        status = _WRITE[kind](
            new,
            item.get("status"),
            (*declared.problems, *declared.passed_over),
            generation=item["metadata"].get("generation", 0),
            now_ms=self._services.clock.now_ms(),
        )
        if await self._services.statuses.write(kind, item, status):
            for notice in model_events(old, new):
                self._services.recorder.record(kind, item, notice)
        return self._again((kind, Key(namespace, name)), new)

    def _again(self, key: tuple[Kind, Key], new: ModelStatus) -> float | None:
        """When to try a model again that no instance can take."""
        mesh = self._services.meshes.get(key[1].namespace)
        if new.failure is None or new.failure.reason not in _WAITS or mesh is None or not mesh.reachable:
            self._tries.pop(key, None)
            return None
        now_ms = self._services.clock.monotonic_ms()
        tries, not_before_ms = self._tries.get(key, (0, 0))
        if now_ms >= not_before_ms:
            not_before_ms = now_ms + int(min(RETRY_MAX_S, RETRY_S * 2.0 ** min(tries, 8)) * 1000)
            self._tries[key] = tries + 1, not_before_ms
        return (not_before_ms - now_ms) / 1000


def _can_load(standing: MeshVModel, *, came: bool) -> bool:
    """Whether a load would begin: it is not under way, nor known to fail again. `came`: there are new instances."""
    model: MeshModel | None = standing.target if standing.target_id != standing.active_id else standing.active
    if model is None or model.state in {MeshState.NOT_LOADED, MeshState.NOT_FOUND}:
        return True
    if came and model.state is MeshState.FAILED:
        return True
    reason = of_answer(standing, ModelStatus(), now_ms=0).failure
    return model.state is MeshState.FAILED and reason is not None and reason.reason in _WAITS


def endpoints(config: Config, namespace: str) -> Endpoints:
    """Where the models of a namespace are called."""
    host = f"{config.service_name}.{namespace}"
    scheme = "https" if config.tls_secret else "http"
    rest = f"{scheme}://{host}:{config.rest_port}" if config.rest_port is not None else ""
    return Endpoints(f"grpc://{host}:{config.service_port}", rest)
