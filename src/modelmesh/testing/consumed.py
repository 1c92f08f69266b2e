"""What the small data plane in Python tells of what was used, and of copies of calls."""

from collections.abc import Sequence
from dataclasses import replace

from modelmesh.values.dataplane import Consumption
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.shadow import ShadowCounts


class Consumed:
    """The parts of `ports.DataPlane` on consumption and shadows.

    `consumed` has loads, and the calls that a test puts into it. `shadowed` has what a test puts into it: no calls are copied.
    """

    consumed: dict[tuple[str, ModelId], Consumption]
    shadowed: dict[VModelId, ShadowCounts]

    def count_load(self, tenant: str, model: ModelId) -> None:
        """See `ports.DataPlane`."""
        before = self.consumed.get((tenant, model), Consumption(tenant, model))
        self.consumed[tenant, model] = replace(before, loads=before.loads + 1)

    def consumption(self) -> Sequence[Consumption]:
        """See `ports.DataPlane`."""
        return [self.consumed[key] for key in sorted(self.consumed)]

    def shadows(self) -> Sequence[tuple[VModelId, ShadowCounts]]:
        """See `ports.DataPlane`."""
        return sorted(self.shadowed.items())
