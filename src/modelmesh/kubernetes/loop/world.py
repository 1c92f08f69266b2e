"""What the controller knows of the cluster: questions over the caches, answered without waiting."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelmesh.declared import Declared, Document, Problem, Runtime, declare
from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.config import CONFIG_KEY, CONFIG_MAP, Config, Layer, Reading, read_config, runtime_layer
from modelmesh.kubernetes.config_keys import Level
from modelmesh.kubernetes.kinds import Key, Kind, Object
from modelmesh.kubernetes.loop.cache import Cache, trim
from modelmesh.kubernetes.loop.wanted_models import WantedModels
from modelmesh.kubernetes.render import Owner, as_served
from modelmesh.kubernetes.render.objects import MANAGEMENT_PORT
from modelmesh.kubernetes.settings import Settings

ENABLED_LABEL = "modelmesh-enabled"
SERVICE_OF_SLICE = "kubernetes.io/service-name"
GRPC_PORT = "grpc"

LISTED = (
    *(kinds.PREDICTOR, kinds.INFERENCE_SERVICE, kinds.SERVING_RUNTIME, kinds.CLUSTER_RUNTIME, kinds.NAMESPACE),
    *(kinds.SERVICE, kinds.CLAIM, kinds.DEPLOYMENT, kinds.AUTOSCALER, kinds.ENDPOINT_SLICE),
    *(kinds.DISRUPTION_BUDGET, kinds.NETWORK_POLICY, kinds.SERVICE_MONITOR),
)
"""Kinds of which there is one cache. Of ConfigMaps and Secrets there is one for each name that is needed."""


@dataclass(frozen=True, slots=True)
class DeclaredRuntime:
    """A runtime as its resource says. `runtime` is None if it cannot be used; `problems` says why."""

    kind: Kind
    item: Object
    runtime: Runtime | None
    problems: tuple[Problem, ...]

    @property
    def owner(self) -> Owner:
        """For the objects that are made for it."""
        return owner_of(self.kind, self.item)


class World:
    """Questions.

    Attributes:
        caches: By kind.
        named: Caches of the objects of one name, in all namespaces.
        models: The models that resources ask for.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.caches = {kind: Cache(kind, trimmed=_TRIMMED.get(kind, trim)) for kind in LISTED}
        self.named: dict[tuple[Kind, str], Cache] = {}
        self.models = WantedModels()
        self._configs: dict[str, tuple[object, Reading]] = {}
        self._good: dict[str, Config] = {}
        self._runtimes: dict[tuple[Kind, Key], tuple[str, Declared]] = {}

    def find(self, kind: Kind, key: Key) -> Object | None:
        """An object as it was seen last."""
        cache = self.caches.get(kind) or self.named.get((kind, key.name))
        return cache.get(key) if cache is not None else None

    def has_read(self, kind: Kind, name: str) -> bool:
        """Whether it is known where objects of a name are, and where not; no name needs no reading."""
        cache = self.named.get((kind, name))
        return not name or (cache is not None and cache.synced.is_set())

    def unreadable(self, kind: Kind, name: str) -> str:
        """Why objects of a name cannot be read; empty: no reason is known."""
        cache = self.named.get((kind, name))
        return cache.failure if cache is not None else ""

    def needed_names(self) -> set[tuple[Kind, str]]:
        """ConfigMaps and Secrets that must be read, by name."""
        found = {(kinds.CONFIG_MAP, CONFIG_MAP), (kinds.CONFIG_MAP, "tc-config")}
        found.add((kinds.SECRET, self.settings.store_secret))
        for config in self._good.values():
            found |= {(kinds.SECRET, name) for name in (config.storage_secret, config.tls_secret) if name}
        return found

    # --- namespaces -------------------------------------------------------------------------------

    def enabled(self, namespace: str) -> bool:
        """Whether the controller serves a namespace. Source: spec/serving-controller.md 0.3."""
        own = namespace == self.settings.namespace
        if self.settings.namespace_scope:
            return own
        item = self.caches[kinds.NAMESPACE].get(Key("", namespace))
        if item is None or "deletionTimestamp" in item["metadata"]:
            return False
        label = (item["metadata"].get("labels") or {}).get(ENABLED_LABEL)
        return own if label is None else label == "true"

    def namespaces(self) -> list[str]:
        """Those that exist."""
        if self.settings.namespace_scope:
            return [self.settings.namespace]
        return sorted(key.name for key, _ in self.caches[kinds.NAMESPACE].items())

    def reading(self, namespace: str) -> Reading:
        """What the layers of configuration say for a namespace."""
        state, layers = self._layers(namespace)
        known = self._configs.get(namespace)
        if known is not None and known[0] == state:
            return known[1]
        reading = read_config(layers, store_secret=self.settings.store_secret)
        self._configs[namespace] = (state, reading)
        return reading

    def _layers(self, namespace: str) -> tuple[tuple[str, ...], list[Layer]]:
        """The ConfigMaps that count for a namespace: their revisions and content."""
        own = self.settings.namespace
        places = {own: Level.CLUSTER} if namespace == own else {own: Level.CLUSTER, namespace: Level.NAMESPACE}
        revisions, layers = [], []
        for at, level in places.items():
            item = self.find(kinds.CONFIG_MAP, Key(at, CONFIG_MAP))
            revisions.append(item["metadata"]["resourceVersion"] if item is not None else "")
            if item is not None:
                text = str((item.get("data") or {}).get(CONFIG_KEY, ""))
                layers.append(Layer(level, f"ConfigMap {at}/{CONFIG_MAP}", text))
        return tuple(revisions), layers

    def config(self, namespace: str) -> Config | None:
        """The last configuration of a namespace that could be used; None: there was none yet, or it is not known yet."""
        if not self.has_read(kinds.CONFIG_MAP, CONFIG_MAP):
            return None
        reading = self.reading(namespace)
        if reading.config is not None:
            self._good[namespace] = reading.config
        return self._good.get(namespace)

    def forget_namespace(self, namespace: str) -> None:
        """It was deleted."""
        self._configs.pop(namespace, None)
        self._good.pop(namespace, None)

    # --- runtimes ---------------------------------------------------------------------------------

    def runtime(self, namespace: str, name: str) -> DeclaredRuntime | None:
        """The runtime of a name that a namespace sees: its own hides that of the cluster."""
        for kind, key in ((kinds.SERVING_RUNTIME, Key(namespace, name)), (kinds.CLUSTER_RUNTIME, Key("", name))):
            item = self.caches[kind].get(key)
            if item is not None:
                return self._declared(kind, key, item)
        return None

    def runtime_names(self, namespace: str) -> list[str]:
        """Names of all runtimes that a namespace sees."""
        own = self.caches[kinds.SERVING_RUNTIME].within(namespace)
        return sorted({*own, *self.caches[kinds.CLUSTER_RUNTIME].within("")})

    def runtimes(self, namespace: str) -> Iterator[DeclaredRuntime]:
        """All runtimes that a namespace sees."""
        for name in self.runtime_names(namespace):
            found = self.runtime(namespace, name)
            assert found is not None
            yield found

    def usable_runtimes(self, namespace: str, config: Config) -> list[Runtime]:
        """Those that can be read, as models choose among them."""
        return [as_served(one.runtime, config) for one in self.runtimes(namespace) if one.runtime is not None]

    def runtime_reading(self, namespace: str, runtime: Runtime) -> Reading | None:
        """The configuration of a namespace with the runtime's own layer; None: the runtime has none."""
        layer = runtime_layer(runtime)
        if layer is None:
            return None
        _, layers = self._layers(namespace)
        return read_config([*layers, layer], store_secret=self.settings.store_secret)

    def _declared(self, kind: Kind, key: Key, item: Object) -> DeclaredRuntime:
        revision = item["metadata"]["resourceVersion"]
        known = self._runtimes.get((kind, key))
        if known is None or known[0] != revision:
            known = self._runtimes[kind, key] = revision, declare([Document(f"{kind.name} {key}", item)])
        found = known[1]
        runtime = found.runtimes[0] if found.runtimes else None
        return DeclaredRuntime(kind, item, runtime, (*found.problems, *found.passed_over))

    def forget_runtime(self, kind: Kind, key: Key) -> None:
        """It was deleted."""
        self._runtimes.pop((kind, key), None)

    # --- the mesh ---------------------------------------------------------------------------------

    def addresses(self, namespace: str, config: Config) -> list[str]:
        """Where the instances of a namespace can be called: `host:port`."""
        if config.mesh_endpoint:
            return [config.mesh_endpoint.removeprefix("dns:///")]
        slices = self.caches[kinds.ENDPOINT_SLICE].within(namespace).values()
        return sorted(ready_addresses(slices, config.service_name))

    def pods(self, namespace: str, config: Config) -> set[str]:
        """Names of the pods of a namespace's mesh that have an address."""
        slices = self.caches[kinds.ENDPOINT_SLICE].within(namespace).values()
        return {
            str(endpoint["targetRef"]["name"])
            for one in slices
            if (one["metadata"].get("labels") or {}).get(SERVICE_OF_SLICE) == config.service_name
            for endpoint in one.get("endpoints") or ()
            if (endpoint.get("targetRef") or {}).get("kind") == kinds.POD.name
        }


def ready_addresses(slices: Iterable[Object], service: str) -> Iterator[str]:
    """The ready endpoints of a Service at their port of management, or at their gRPC port if they have none."""
    for one in slices:
        if (one["metadata"].get("labels") or {}).get(SERVICE_OF_SLICE) != service:
            continue
        ports = {entry.get("name"): entry.get("port") for entry in one.get("ports") or ()}
        # Pods from before the configuration had the port are in a slice of their own, without it.
        port = ports.get(MANAGEMENT_PORT) or ports.get(GRPC_PORT)
        for endpoint in one.get("endpoints") or ():
            # None means ready: a slice says it only where it differs.
            if port is not None and (endpoint.get("conditions") or {}).get("ready") is not False:
                for address in endpoint.get("addresses") or ():
                    yield f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def owner_of(kind: Kind, item: Object) -> Owner:
    """An object as the owner of others."""
    return Owner(kind.api_version, kind.name, item["metadata"]["name"], item["metadata"]["uid"])


def owning_runtime(item: Object) -> str | None:
    """The name of the runtime that an object was made for, of the namespace or of the cluster."""
    runtimes = {kinds.SERVING_RUNTIME.name, kinds.CLUSTER_RUNTIME.name}
    references: Sequence[Mapping[str, str]] = item["metadata"].get("ownerReferences") or ()
    return next((reference["name"] for reference in references if reference.get("kind") in runtimes), None)


def _with_owners(item: Object) -> Object:
    """As it is: who owns the number of pods counts."""
    return item


def _name_only(item: Object) -> Object:
    metadata = item["metadata"]
    kept = ("name", "namespace", "resourceVersion")
    return {"metadata": {name: metadata[name] for name in kept}}


_TRIMMED = {kinds.DEPLOYMENT: _with_owners, kinds.CLAIM: _name_only}
