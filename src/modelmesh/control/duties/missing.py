"""Members whose key disappeared: pinged at once, dropped after 60 s."""

from collections.abc import Callable, Iterable

from modelmesh.control.requests.routing import Routing
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.state import Changed, ClusterState
from modelmesh.ports import Clock, Peers, PeerUnreachableError
from modelmesh.values.ids import InstanceId

GONE_MS = 60_000
"""How long an instance without an entry keeps its address: it may only have lost its lease."""

ASK_AFTER_MS = 2_000
"""How long an instance that lost its entry may take to publish a new one."""


class Missing:
    """Finds out whether instances without an entry have ended, with their copies.

    Args:
        viewed: Called for what changed in the view when one has.
    """

    def __init__(
        self,
        *,
        state: ClusterState,
        routing: Routing,
        peers: Peers,
        clock: Clock,
        tasks: Tasks,
        viewed: Callable[[Changed], None],
    ) -> None:
        self._state = state
        self._routing = routing
        self._peers = peers
        self._clock = clock
        self._tasks = tasks
        self._viewed = viewed
        self._since_ms: dict[InstanceId, int] = {}

    def members_changed(self, instances: Iterable[InstanceId]) -> None:
        """Entries of these instances were changed, added or removed."""
        for instance in instances:
            if instance in self._state.members:
                self._since_ms.pop(instance, None)
            elif instance not in self._since_ms:
                self._since_ms[instance] = self._clock.monotonic_ms()
                self._tasks.start(self._ping(instance), f"ping {instance}")

    async def _ping(self, instance: InstanceId) -> None:
        """If an instance does not answer either, its copies are lost.

        Without this a dead instance without calls would count as a holder until the next call.
        """
        address = self._routing.address(instance)
        if address is None or instance == self._state.own:
            return
        try:
            answered = await self._peers.ping(address, timeout_ms=ASK_AFTER_MS)
        except PeerUnreachableError:
            answered = None
        if answered != instance:
            self._viewed(self._state.gone(instance))

    def forget(self) -> None:
        """Forget those that are missing for long; about once a second."""
        now_ms = self._clock.monotonic_ms()
        gone = [instance for instance, since_ms in self._since_ms.items() if now_ms - since_ms >= GONE_MS]
        for instance in gone:
            del self._since_ms[instance]
        self._routing.forget_peers(gone)
        for instance in gone:
            self._viewed(self._state.gone(instance))
