"""One look at a runtime in a namespace: its Deployment, what stands beside it, and what the runtime says of itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from modelmesh.declared import Runtime
from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.adoption import adopted_fields
from modelmesh.kubernetes.claims import Claims, claims_of
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.demand import SENTENCES, limits_of
from modelmesh.kubernetes.differences import differences
from modelmesh.kubernetes.kinds import Key, Kind, Object, kind_of
from modelmesh.kubernetes.loop.apply import is_ours, owners_of_replicas
from modelmesh.kubernetes.loop.pod_costs import PodCosts
from modelmesh.kubernetes.loop.services import Services
from modelmesh.kubernetes.loop.world import DeclaredRuntime, owning_runtime
from modelmesh.kubernetes.ports import MANAGER
from modelmesh.kubernetes.render import (
    ScaledBy,
    as_served,
    check_runtime,
    deployment_name,
    render_runtime,
    scaled_by,
    scaling,
)
from modelmesh.kubernetes.replicas import EMPTY_SINCE, Pods, Standing, decide_pods
from modelmesh.kubernetes.status.conditions import time_ms, time_text
from modelmesh.kubernetes.status.events import Notice
from modelmesh.kubernetes.status.runtimes import RuntimeState, read_pods, write_runtime

ROLL = "modelmesh.io/roll"
"""Annotation of a runtime: `true` lets the controller replace the pods of another controller's Deployment."""


class Runtimes:
    """The reconcile of ServingRuntimes and ClusterServingRuntimes, in each namespace that sees them.

    Args:
        say: Requests an update of the status of a cluster-wide runtime, to which all namespaces contribute.
    """

    def __init__(self, services: Services, say: Callable[[str], None]) -> None:
        self._say_later = say
        self._services = services
        self._world = services.world
        self._states: dict[tuple[str, str], RuntimeState] = {}
        """By namespace and name of the runtime."""
        self._costs = PodCosts(services)

    async def reconcile(self, namespace: str, name: str) -> float | None:
        """Look at one; returns in how many seconds to look again. Raises ApiError."""
        declared = self._world.runtime(namespace, name)
        if declared is None:
            self._states.pop((namespace, name), None)
            return None  # its objects go with it, because it owns them
        if not self._world.enabled(namespace):
            await self._delete(namespace, name)
            self._states.pop((namespace, name), None)
            return None
        config = self._world.config(namespace)
        if config is None:
            return None
        unread, why = self._unread_secret(config)
        if unread and not why:
            return None  # when it is read, it is looked at again
        if unread:
            live = self._world.caches[kinds.DEPLOYMENT].get(Key(namespace, f"{config.service_name}-{name}"))
            text = f"Secret {unread} cannot be read: {why}"
            state, again_s = RuntimeState(declared.problems, unread=text, pods=read_pods(live)), None
        else:
            state, again_s = await self._deploy(namespace, declared, config)
        before = self._states.get((namespace, name))
        self._states[namespace, name] = state
        self._tell(declared, before, state)
        if declared.kind is kinds.CLUSTER_RUNTIME:
            self._say_later(name)
        else:
            await self._write({namespace: state}, declared.item, declared.kind)
        return again_s

    async def say(self, name: str) -> None:
        """Write the status of a runtime of the cluster when it was looked at everywhere. Raises ApiError."""
        item = self._world.caches[kinds.CLUSTER_RUNTIME].get(Key("", name))
        seen = [one for one in self._world.namespaces() if self._sees_cluster_runtime(one, name)]
        states = {one: self._states[one, name] for one in seen if (one, name) in self._states}
        if item is not None and len(states) == len(seen):  # otherwise the last namespace asks again
            await self._write(states, item, kinds.CLUSTER_RUNTIME)

    def _unread_secret(self, config: Config) -> tuple[str, str]:
        """A Secret that pods depend on and that is not known yet, and why not; empty: all are known."""
        for name in (config.storage_secret, config.tls_secret):
            if not self._world.has_read(kinds.SECRET, name):
                return name, self._world.unreadable(kinds.SECRET, name)
        return "", ""

    async def _deploy(
        self, namespace: str, declared: DeclaredRuntime, config: Config
    ) -> tuple[RuntimeState, float | None]:
        """Apply the objects of a runtime; returns what to report. Raises ApiError."""
        runtime, problems = declared.runtime, list(declared.problems)
        if runtime is not None and runtime.serves:
            reading = self._world.runtime_reading(namespace, runtime)
            if reading is not None:
                problems += [problem for problem in reading.problems if problem.fatal]
                config = reading.config or config
            problems += check_runtime(runtime, config)
        if runtime is None or any(problem.fatal for problem in problems):
            return RuntimeState(problems), None
        if not runtime.serves:
            await self._delete(namespace, runtime.name)
            return RuntimeState(problems, off=runtime.why_off), None
        live = self._world.caches[kinds.DEPLOYMENT].get(Key(namespace, deployment_name(runtime, config)))
        pods = self._pods(namespace, runtime, config, live)
        claims = self._claims(namespace, runtime, config)
        objects = self._render(namespace, declared, runtime, config, pods, claims)
        state = RuntimeState(problems, why=pods.why, pods=read_pods(live), notes=_notes(claims, config))
        held = self._held(declared, objects, live)
        if held:
            return replace(state, held=held), pods.look_again_s
        await self._costs.write(namespace, runtime, config, live, pods)
        await self._apply(objects, live, pods)
        self._tell_scaled(declared, live, pods)
        await self._delete(namespace, runtime.name, keep=objects)
        return state, pods.look_again_s

    def _pods(self, namespace: str, runtime: Runtime, config: Config, live: Object | None) -> Pods:
        standing = None
        if live is not None:
            annotations = live["metadata"].get("annotations") or {}
            standing = Standing(live["spec"].get("replicas", 1), time_ms(annotations.get(EMPTY_SINCE, "")))
        scaler = scaled_by(runtime)
        if scaler is ScaledBy.OTHERS:
            return Pods(None, why="others set the number of pods")
        asked, why = config.pods_per_runtime, ""
        if runtime.body.get("replicas") is not None:
            asked = int(runtime.body["replicas"])
        if scaler is ScaledBy.CONTROLLER:
            limits = limits_of(runtime, bounded=True)
            sample = self._services.demands.get(namespace, runtime.name)
            asked = standing.replicas if standing is not None else 0
            if sample is not None and sample.standing == asked:
                asked = sample.pods
            asked = min(limits.most, max(limits.least, asked))
            why = SENTENCES[sample.demand.why] if sample is not None else ""
        pods = decide_pods(
            asked=asked,
            autoscaler=scaling(runtime),
            scale_to_zero=config.scale_to_zero,
            grace_s=config.scale_to_zero_grace_s,
            needed=self._world.models.needed_in(namespace, as_served(runtime, config)),
            standing=standing,
            now_ms=self._services.clock.now_ms(),
        )
        return replace(pods, why=why) if why and pods.replicas == asked else pods

    def _claims(self, namespace: str, runtime: Runtime, config: Config) -> Claims:
        secret = self._world.find(kinds.SECRET, Key(namespace, config.storage_secret))
        served, models = as_served(runtime, config), self._world.models
        return claims_of(
            secret.get("data") if secret is not None else None,
            models.claims(namespace, served),
            self._world.caches[kinds.CLAIM].within(namespace).keys(),
            any_claim=config.any_claim,
            keys=models.storage_keys(namespace, served) if config.needed_keys_only else None,
        )

    def _render(
        self,
        namespace: str,
        declared: DeclaredRuntime,
        runtime: Runtime,
        config: Config,
        pods: Pods,
        claims: Claims,
    ) -> tuple[Object, ...]:
        tls = self._world.find(kinds.SECRET, Key(namespace, config.tls_secret)) if config.tls_secret else None
        objects = render_runtime(
            runtime,
            config,
            namespace=namespace,
            replicas=pods.replicas,
            claims=claims.mounted,
            storage_keys=self._world.models.storage_keys(namespace, as_served(runtime, config)),
            owner=declared.owner,
            tls_authority=tls is not None and "ca.crt" in (tls.get("data") or {}),
        )
        if not pods.empty_since_ms:
            return objects
        return tuple(
            _annotated(item, EMPTY_SINCE, time_text(pods.empty_since_ms)) if kind_of(item) is kinds.DEPLOYMENT else item
            for item in objects
        )

    def _held(self, declared: DeclaredRuntime, objects: Sequence[Object], live: Object | None) -> str:
        """Why a Deployment stays as it is; empty: it does not. Pods are not replaced because the controller is."""
        if live is None or is_ours(live) or self._world.settings.roll:
            return ""
        if (declared.item["metadata"].get("annotations") or {}).get(ROLL) == "true":
            return ""
        wanted = next(item for item in objects if kind_of(item) is kinds.DEPLOYMENT)
        found = list(differences(wanted["spec"]["template"], live["spec"]["template"]))
        if not found:
            return ""
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return (
            f"its pods were started by another controller and differ at {', '.join(found[:3])}{more}; the annotation"
            f" {ROLL}: 'true' lets them be replaced"
        )

    async def _apply(self, objects: Sequence[Object], live: Object | None, pods: Pods) -> None:
        applier = self._services.applier
        if live is not None and not is_ours(live) and (patch := adopted_fields(live)) is not None:
            # What the other controller applied, and is not wanted, is to go with this apply.
            key = Key(live["metadata"]["namespace"], live["metadata"]["name"])
            live = await self._services.api.merge(kinds.DEPLOYMENT, key, patch)
        if live is not None and pods.replicas is None and owners_of_replicas(live) == {MANAGER}:
            await applier.give_replicas(kinds.DEPLOYMENT, live)
        for item in objects:
            await applier.apply(item)

    async def _delete(self, namespace: str, name: str, keep: Sequence[Object] = ()) -> None:
        """Delete what was made for a runtime, but for what is kept. Raises ApiError."""
        kept = {(kind_of(item), item["metadata"]["name"]) for item in keep}
        for kind in (kinds.AUTOSCALER, kinds.DISRUPTION_BUDGET, kinds.DEPLOYMENT):
            for item in list(self._world.caches[kind].within(namespace).values()):
                if owning_runtime(item) == name and (kind, item["metadata"]["name"]) not in kept:
                    await self._services.applier.delete(kind, Key(namespace, item["metadata"]["name"]))

    # --- reporting --------------------------------------------------------------------------------

    async def _write(self, states: Mapping[str, RuntimeState], item: Object, kind: Kind) -> None:
        item = self._services.statuses.latest(kind, item)
        status = write_runtime(
            states,
            item.get("status"),
            generation=item["metadata"].get("generation", 0),
            now_ms=self._services.clock.now_ms(),
        )
        await self._services.statuses.write(kind, item, status)

    def _sees_cluster_runtime(self, namespace: str, name: str) -> bool:
        found = self._world.runtime(namespace, name) if self._world.enabled(namespace) else None
        return found is not None and found.kind is kinds.CLUSTER_RUNTIME

    def _tell_scaled(self, declared: DeclaredRuntime, live: Object | None, pods: Pods) -> None:
        """An Event if the controller's own scaling changed the number of pods that there are."""
        before = live["spec"].get("replicas") if live is not None else None
        scaler = scaled_by(declared.runtime) if declared.runtime is not None else None
        if scaler is ScaledBy.CONTROLLER and before and pods.replicas and before != pods.replicas:
            notice = Notice(False, "Scaled", f"from {before} to {pods.replicas} pods: {pods.why}")  # noqa: FBT003
            self._services.recorder.record(declared.kind, declared.item, notice)

    def _tell(self, declared: DeclaredRuntime, before: RuntimeState | None, state: RuntimeState) -> None:
        """Events of what is new."""
        known = set(before.problems) if before is not None else set()
        notices = [
            Notice(True, "InvalidSpec", f"{problem.path}: {problem.message}")  # noqa: FBT003
            for problem in state.problems
            if problem.fatal and problem not in known
        ]
        notes = before.notes if before is not None else ()
        notices += [Notice(True, "StorageConfig", note) for note in state.notes if note not in notes]  # noqa: FBT003
        if state.held and (before is None or before.held != state.held):
            notices.append(Notice(True, "HeldBack", state.held))  # noqa: FBT003
        for notice in notices:
            self._services.recorder.record(declared.kind, declared.item, notice)


def _annotated(item: Object, name: str, value: str) -> Object:
    metadata = item["metadata"]
    return {**item, "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), name: value}}}


def _notes(claims: Claims, config: Config) -> tuple[str, ...]:
    notes = [f"claim {name} is not in the namespace and is not mounted" for name in claims.missing]
    notes += [f"key {key} of Secret {config.storage_secret} is no JSON object" for key in claims.unreadable]
    return tuple(notes)
