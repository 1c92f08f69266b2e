"""What all instances together counted of the calls of one vmodel."""

from collections.abc import Sequence

from modelmesh.control.requests.others import OtherInstances
from modelmesh.policy.vmodel_counts import added_up
from modelmesh.ports import DataPlane, Peers
from modelmesh.values.ids import InstanceId, VModelId
from modelmesh.values.vmodel_counts import VModelCounts


class Tallies:
    """Asks the data plane here, and the other instances for theirs."""

    def __init__(self, *, dataplane: DataPlane, others: OtherInstances, peers: Peers) -> None:
        self._dataplane = dataplane
        self._others = others
        self._peers = peers

    def here(self, vmodel: VModelId) -> VModelCounts:
        """What this instance counted."""
        shadows = tuple(counts for one, counts in self._dataplane.shadows() if one == vmodel)
        step, models = self._dataplane.tallies_of(vmodel) or (0, ())
        return VModelCounts(shadows, tuple(models), step)

    async def everywhere(self, vmodel: VModelId) -> tuple[VModelCounts, Sequence[InstanceId]]:
        """What all instances counted, and those that did not answer."""
        answers = await self._others.ask(
            lambda address, timeout_ms: self._peers.count_vmodel(address, vmodel, timeout_ms=timeout_ms)
        )
        return added_up([self.here(vmodel), *(counts for _, counts in answers.given)]), answers.silent
