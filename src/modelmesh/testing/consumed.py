"""What the small data plane in Python tells of what was used."""

from collections.abc import Sequence
from dataclasses import replace

from modelmesh.values.dataplane import Consumption
from modelmesh.values.ids import ModelId


class Consumed:
    """The part of `ports.DataPlane` on consumption. `consumed` has loads, and the calls that a test puts into it."""

    consumed: dict[tuple[str, ModelId], Consumption]

    def count_load(self, tenant: str, model: ModelId) -> None:
        """See `ports.DataPlane`."""
        before = self.consumed.get((tenant, model), Consumption(tenant, model))
        self.consumed[tenant, model] = replace(before, loads=before.loads + 1)

    def consumption(self) -> Sequence[Consumption]:
        """See `ports.DataPlane`."""
        return [self.consumed[key] for key in sorted(self.consumed)]
