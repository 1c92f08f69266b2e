"""One look at a namespace: the objects that its runtimes share."""

from collections.abc import Iterable

from modelmesh.kubernetes import kinds
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.kinds import Key, Kind, Object, key_of, kind_of
from modelmesh.kubernetes.loop.services import Services
from modelmesh.kubernetes.loop.world import owner_of
from modelmesh.kubernetes.render import Owner, StoreSecretError, render_namespace
from modelmesh.kubernetes.render.objects import CONTROLLER, SERVICE_LABEL, TYPE_CONSTRAINTS
from modelmesh.kubernetes.status.events import Notice

MANAGED_BY = "app.kubernetes.io/managed-by"


class Namespaces:
    """The reconcile of namespaces.

    Args:
        owner: In namespace scope: what owns the shared objects.
    """

    def __init__(self, services: Services, owner: Owner | None) -> None:
        self._services = services
        self._world = services.world
        self._owner = owner

    async def reconcile(self, namespace: str) -> float | None:
        """Look at one. Raises ApiError."""
        if not self._world.enabled(namespace):
            if self._world.caches[kinds.NAMESPACE].get(Key("", namespace)) is not None:
                await self._delete(self._shared(namespace), ())
            return None
        config = self._world.config(namespace)
        if config is None:
            return None  # when its configuration can be read, it is looked at again
        wanted = self._wanted(namespace, config)
        if wanted is None:
            return None
        for item in wanted:
            await self._apply(item)
        await self._delete(self._shared(namespace), wanted)
        return None

    def _wanted(self, namespace: str, config: Config) -> tuple[Object, ...] | None:
        """The objects; None: they cannot be rendered, which was reported."""
        own = namespace == self._world.settings.namespace
        secret = self._world.find(kinds.SECRET, Key(self._world.settings.namespace, config.store_secret))
        store = None if own else {} if secret is None else secret.get("data") or {}
        item = self._world.caches[kinds.NAMESPACE].get(Key("", namespace))
        owner = self._owner if item is None else owner_of(kinds.NAMESPACE, item)
        try:
            return render_namespace(
                namespace,
                config,
                self._world.usable_runtimes(namespace, config),
                controller=self._world.settings.namespace,
                owner=owner,
                service_monitors=not self._world.caches[kinds.SERVICE_MONITOR].absent,
                store=store,
            )
        except StoreSecretError as error:
            message = f"Secret {self._world.settings.namespace}/{config.store_secret} {error}"
            if item is not None:
                self._services.recorder.record(kinds.NAMESPACE, item, Notice(True, "StoreSecret", message))  # noqa: FBT003
            self._services.log("store secret", namespace=namespace, error=message)
            return None

    async def _apply(self, item: Object) -> None:
        """Apply; a Service whose kind of address changes is made again, because the API server refuses the change."""
        if kind_of(item) is kinds.SERVICE:
            live = self._services.applier.live(item)
            if live is not None and (live["spec"].get("clusterIP") == "None") != (
                item["spec"].get("clusterIP") == "None"
            ):
                await self._services.applier.delete(kinds.SERVICE, key_of(item))
        await self._services.applier.apply(item)

    def _shared(self, namespace: str) -> Iterable[tuple[Kind, Object]]:
        """The existing objects of the controller."""
        own = namespace == self._world.settings.namespace
        for kind in (kinds.SERVICE, kinds.NETWORK_POLICY, kinds.SERVICE_MONITOR):
            for item in list(self._world.caches[kind].within(namespace).values()):
                if SERVICE_LABEL in (item["metadata"].get("labels") or {}):
                    yield kind, item
        for (kind, name), cache in list(self._world.named.items()):
            found = cache.get(Key(namespace, name))
            if found is None or (found["metadata"].get("labels") or {}).get(MANAGED_BY) != CONTROLLER:
                continue
            if name == TYPE_CONSTRAINTS or (name == self._world.settings.store_secret and not own):
                yield kind, found

    async def _delete(self, shared: Iterable[tuple[Kind, Object]], wanted: Iterable[Object]) -> None:
        kept = {(kind_of(item), key_of(item)) for item in wanted}
        for kind, item in shared:
            if (kind, key_of(item)) not in kept:
                await self._services.applier.delete(kind, key_of(item))
