"""What all instances together counted of the calls of one vmodel."""

import asyncio
from collections.abc import Sequence

from modelmesh.control.decide import Decider
from modelmesh.control.requests.routing import Routing
from modelmesh.policy.vmodel_counts import added_up
from modelmesh.ports import DataPlane, Peers, PeerUnreachableError
from modelmesh.values.ids import InstanceId, VModelId
from modelmesh.values.vmodel_counts import VModelCounts

ASKED = 256
"""Other instances that are asked."""

AT_A_TIME = 32
ANSWER_MS = 2_000


class Tallies:
    """Asks the data plane here, and the other instances for theirs."""

    def __init__(
        self, *, own: InstanceId, dataplane: DataPlane, decider: Decider, routing: Routing, peers: Peers
    ) -> None:
        self._own = own
        self._dataplane = dataplane
        self._decider = decider
        self._routing = routing
        self._peers = peers

    def here(self, vmodel: VModelId) -> VModelCounts:
        """What this instance counted."""
        shadows = tuple(counts for one, counts in self._dataplane.shadows() if one == vmodel)
        step, models = self._dataplane.tallies_of(vmodel) or (0, ())
        return VModelCounts(shadows, tuple(models), step)

    async def everywhere(self, vmodel: VModelId) -> tuple[VModelCounts, Sequence[InstanceId]]:
        """What all instances counted, and those that did not answer. Each is asked for two seconds at most."""
        view = self._decider.cluster_view()
        others = [entry.instance for entry in view.instances if entry.instance != self._own]
        turns = asyncio.Semaphore(AT_A_TIME)
        found = await asyncio.gather(*(self._ask(instance, vmodel, turns) for instance in others[:ASKED]))
        silent = [*(one for one, answer in zip(others, found, strict=False) if answer is None), *others[ASKED:]]
        counted = [self.here(vmodel), *(answer for answer in found if answer is not None)]
        return added_up(counted), sorted(silent)

    async def _ask(self, instance: InstanceId, vmodel: VModelId, turns: asyncio.Semaphore) -> VModelCounts | None:
        address = self._routing.address(instance)
        if address is None:
            return None
        async with turns:
            try:
                return await self._peers.count_vmodel(address, vmodel, timeout_ms=ANSWER_MS)
            except PeerUnreachableError:
                return None
