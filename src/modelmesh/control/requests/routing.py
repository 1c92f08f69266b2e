"""The routing table: informs the data plane where each model has copies."""

from collections.abc import Callable, Iterable, Sequence

from modelmesh.control.view.state import ClusterState
from modelmesh.ports import DataPlane
from modelmesh.values.dataplane import LocalCopy, PeerAddress, RemoteCopy, Route
from modelmesh.values.ids import InstanceId, ModelId


class Routing:
    """Keeps the data plane's routes equal to the view and the cache.

    Changes are collected and sent in one call at the end of the current turn of the loop's callback,
    by `flush`.
    """

    def __init__(
        self, *, state: ClusterState, dataplane: DataPlane, local_copy: Callable[[ModelId], LocalCopy | None]
    ) -> None:
        self._state = state
        self._dataplane = dataplane
        self._local_copy = local_copy
        self._routed: dict[ModelId, Route] = {}
        self._unsent: dict[ModelId, None] = {}
        """Models whose routes in the data plane may differ from `_routed`."""
        self._peers: dict[InstanceId, PeerAddress] = {}
        self._without_runtime: dict[InstanceId, None] = {}
        """Instances whose runtime takes no calls, as they publish."""

    def __len__(self) -> int:
        return len(self._routed)

    def update(self, models: Iterable[ModelId]) -> None:
        """Send the routes of these models, where they changed."""
        routes: list[tuple[ModelId, Route | None]] = []
        for model in models:
            route = self._route(model)
            if route != self._routed.get(model) or model in self._unsent:
                routes.append((model, route))
                if route is None:
                    self._routed.pop(model, None)
                else:
                    self._routed[model] = route
        if routes:
            self._set(routes)

    def _set(self, routes: Sequence[tuple[ModelId, Route | None]]) -> None:
        """Inform the data plane. A route that it cannot take is removed; the others are kept."""
        try:
            self._dataplane.set_routes(routes)
        except Exception:
            if len(routes) > 1:
                failures = [error for route in routes if (error := self._try(route)) is not None]
                if failures:
                    raise failures[0] from None
                return
            model, _ = routes[0]
            self._routed.pop(model, None)
            self._unsent[model] = None
            self._dataplane.set_routes([(model, None)])
            raise
        for model, _ in routes:
            self._unsent.pop(model, None)

    def send_again(self) -> None:
        """Send the routes that the data plane did not take; about once a second."""
        self.update(tuple(self._unsent))

    def _try(self, route: tuple[ModelId, Route | None]) -> Exception | None:
        try:
            self._set([route])
        except Exception as error:  # noqa: BLE001 - it is reported when all others have been set
            return error
        return None

    def update_peers(self, instances: Iterable[InstanceId]) -> None:
        """Send the addresses of these instances; a removed one stays known while unlisted copies name it.

        Copies may have been listed before the entry of their instance: their routes are made now, and made again when its
        runtime is lost or comes back.
        """
        changed = [instance for instance in instances if instance not in self._peers]
        peers: list[tuple[InstanceId, PeerAddress]] = []
        for instance in instances:
            if instance == self._state.own:
                continue
            member = self._state.members.get(instance)
            if member is None:
                continue
            address = PeerAddress(member.record.address, member.record.tls_name or None)
            if self._peers.get(instance) != address:
                peers.append((instance, address))
            if member.record.runtime_ready is (instance in self._without_runtime):
                changed.append(instance)
                if member.record.runtime_ready:
                    del self._without_runtime[instance]
                else:
                    self._without_runtime[instance] = None
        if peers:
            self._dataplane.set_peers(peers)
            self._peers.update(peers)
        self.update(self._state.models_at([instance for instance in changed if instance in self._peers]))

    def forget_peers(self, instances: Iterable[InstanceId]) -> None:
        """Drop instances that are removed permanently."""
        gone = [instance for instance in instances if instance in self._peers]
        if gone:
            self._dataplane.set_peers([(instance, None) for instance in gone])
        for instance in gone:
            del self._peers[instance]
            self._without_runtime.pop(instance, None)

    def address(self, instance: InstanceId) -> PeerAddress | None:
        """Where an instance answers, if it is known."""
        return self._peers.get(instance)

    def _route(self, model: ModelId) -> Route | None:
        local = self._local_copy(model)
        remote = tuple(
            RemoteCopy(copy.instance, copy.load_id)
            for copy in self._state.model(model).copies
            if copy.ready
            and copy.instance != self._state.own
            and copy.instance in self._peers
            and copy.instance not in self._without_runtime
        )
        return Route(local, remote) if local is not None or remote else None
