"""Hops from one simulated instance to its peers, and which of its links to them are lost."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modelmesh.testing.attempts import Answer, AttemptEnded
from modelmesh.testing.network import FUTURE_WORD, FakeNetwork
from modelmesh.values.dataplane import DataPlaneEvent, Hop, LinkBack, LinkLost, Outcome, PeerAddress
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.priority import Priority
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.testing.dataplane import SimulatedDataPlane

LINK_DETECTION_MS = 5_000
"""How long a silent peer takes to be noticed while calls are open."""


class PeerLinks:
    """The links of an instance to its peers.

    Args:
        tell: Called for links that are lost or back.
    """

    def __init__(self, *, instance: InstanceId, network: FakeNetwork, emit: Callable[[DataPlaneEvent], None]) -> None:
        self._instance = instance
        self._network = network
        self._emit = emit
        self._peers: dict[InstanceId, PeerAddress] = {}
        self._in_flight: dict[tuple[ModelId, InstanceId], int] = {}
        self._lost: dict[InstanceId, asyncio.Task[None]] = {}

    def set_peers(self, peers: Sequence[tuple[InstanceId, PeerAddress | None]]) -> None:
        """Peers are at these addresses; None: this one has removed permanently."""
        for instance, address in peers:
            if address is None:
                self._peers.pop(instance, None)
                probe = self._lost.pop(instance, None)
                if probe is not None:
                    probe.cancel()
            else:
                self._peers[instance] = address

    def usable(self, instance: InstanceId) -> bool:
        """Whether hits may be sent there."""
        return instance in self._peers and instance not in self._lost

    def in_flight(self, model: ModelId, instance: InstanceId) -> int:
        """Requests for a model that are at a peer."""
        return self._in_flight.get((model, instance), 0)

    def close(self) -> None:
        """Look for lost peers no more."""
        for probe in self._lost.values():
            probe.cancel()
        self._lost.clear()

    async def forward(
        self,
        model: ModelId,
        payload: object,
        instance: InstanceId,
        hop: Hop,
        tried: tuple[InstanceId, ...],
        view: Revision | None,
        priority: Priority = Priority.NORMAL,
    ) -> Answer:
        """Send a request to a peer and wait for its answer. Raises AttemptEnded."""
        key = (model, instance)
        self._in_flight[key] = self._in_flight.get(key, 0) + 1
        try:
            peer = self._reach(instance)
            await asyncio.sleep(self._network.latency_ms / 1000)
            answer = await self._at_peer(peer, model, payload, hop, tried, view, priority)
            await asyncio.sleep(self._network.latency_ms / 1000)
        finally:
            left = self._in_flight[key] - 1
            if left:
                self._in_flight[key] = left
            else:
                del self._in_flight[key]
        refused = dict(answer.trailers).get("mm-refused")
        if refused is not None:
            seen = dict(answer.trailers).get("mm-view")
            later = instance in self._network.from_the_future
            if (
                later and refused != b"lost"
            ):  # that is said in the same word forever, or calls would end runtimes uncounted
                refused = FUTURE_WORD.encode()
            outcome = Outcome(refused.decode())
            raise AttemptEnded(
                outcome,
                Answer(answer.status, answer.message, served_by=instance),
                Revision(int(seen)) if seen is not None else None,
                begun=outcome is Outcome.LOST,
            )
        if answer.status is Status.UNAVAILABLE:
            raise AttemptEnded(Outcome.UNAVAILABLE, Answer(answer.status, answer.message, served_by=instance))
        if answer.status is Status.RESOURCE_EXHAUSTED:
            raise AttemptEnded(Outcome.EXHAUSTED, Answer(answer.status, answer.message, served_by=instance))
        return answer

    async def _at_peer(
        self,
        peer: "SimulatedDataPlane",
        model: ModelId,
        payload: object,
        hop: Hop,
        tried: tuple[InstanceId, ...],
        view: Revision | None,
        priority: Priority,
    ) -> Answer:
        """The peer's part; a connection that breaks meanwhile is noticed after the detection time."""
        work = asyncio.ensure_future(peer.serve_hop(model, payload, hop, tried, view, priority))
        try:
            silent_ms = 0
            while True:
                await asyncio.wait({work}, timeout=0.25)
                if work.done() and peer.open:
                    break
                if peer.open and self._network.plane(self._instance, peer.address) is peer:
                    silent_ms = 0
                    continue
                silent_ms += 250
                if not peer.open or silent_ms >= LINK_DETECTION_MS:  # the dead answer nothing
                    self._lose(peer.instance)
                    raise AttemptEnded(
                        Outcome.LOST,
                        Answer(Status.UNAVAILABLE, f"connection to {peer.instance} lost", served_by=peer.instance),
                        begun=True,
                    )
            return work.result()
        finally:
            work.cancel()

    def _reach(self, instance: InstanceId) -> "SimulatedDataPlane":
        address = self._peers.get(instance)
        peer = self._network.plane(self._instance, address.address) if address is not None else None
        if peer is None:
            self._lose(instance)
            raise AttemptEnded(
                Outcome.LOST, Answer(Status.UNAVAILABLE, f"{instance} cannot be reached", served_by=instance)
            )
        return peer

    def _lose(self, instance: InstanceId) -> None:
        if instance in self._lost or instance not in self._peers:
            return
        self._lost[instance] = asyncio.get_running_loop().create_task(self._probe(instance))
        self._emit(LinkLost(instance))

    async def _probe(self, instance: InstanceId) -> None:
        delay = 0.04
        while True:
            await asyncio.sleep(delay)
            delay = min(2.0, delay * 2)
            address = self._peers.get(instance)
            if address is not None and self._network.plane(self._instance, address.address) is not None:
                self._lost.pop(instance, None)
                self._emit(LinkBack(instance))
                return
