"""The network between simulated instances: latency, partitions, and what must never happen on it."""

from typing import TYPE_CHECKING

from modelmesh.values.ids import InstanceId

if TYPE_CHECKING:
    from modelmesh.testing.dataplane import SimulatedDataPlane


FUTURE_WORD = "word-from-the-future"


class FakeNetwork:
    """Which instances can reach which; partitions may be one-sided.

    Attributes:
        problems: What must never happen and did: a hop that was forwarded on, a call without end, a call
            resolved twice.
        from_the_future: Instances of a later version: they refuse in words that this one does not know.
    """

    def __init__(self, *, latency_ms: int = 1) -> None:
        self.latency_ms = latency_ms
        self.problems: list[str] = []
        self.from_the_future: set[InstanceId] = set()
        self._planes: dict[str, SimulatedDataPlane] = {}
        self._cut: dict[tuple[InstanceId, InstanceId], None] = {}
        self._blocked: dict[tuple[InstanceId, InstanceId], None] = {}
        self._downs: dict[InstanceId, None] = {}

    def attach(self, address: str, plane: "SimulatedDataPlane") -> None:
        """An instance listens at an address."""
        self._planes[address] = plane
        self._downs.pop(plane.instance, None)

    def detach(self, address: str) -> None:
        """It does not any more."""
        plane = self._planes.pop(address, None)
        if plane is not None:
            self._downs[plane.instance] = None

    def cut(self, one: InstanceId, other: InstanceId) -> None:
        """Nothing passes from `one` to `other`, so no connection between them works, whoever opens it."""
        self._cut[one, other] = None

    def heal(self, one: InstanceId, other: InstanceId) -> None:
        """It passes again."""
        self._cut.pop((one, other), None)

    def block(self, one: InstanceId, other: InstanceId) -> None:
        """Connections that `one` opens to `other` fail; those the other way work."""
        self._blocked[one, other] = None

    def unblock(self, one: InstanceId, other: InstanceId) -> None:
        """They work again."""
        self._blocked.pop((one, other), None)

    def plane(self, source: InstanceId, address: str) -> "SimulatedDataPlane | None":
        """The plane at `address` if `source` can reach it and it can answer."""
        plane = self._planes.get(address)
        if plane is None or (source, plane.instance) in self._cut or (plane.instance, source) in self._cut:
            return None
        if (source, plane.instance) in self._blocked:
            return None
        return plane
