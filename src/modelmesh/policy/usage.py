"""What instances counted of the same tenant and model, together."""

from collections.abc import Iterable

from modelmesh.values.dataplane import Consumption
from modelmesh.values.ids import ModelId


def added_up(counted: Iterable[Consumption], *, tenant: str | None = None, model: str = "") -> list[Consumption]:
    """One sum for each tenant and model, ordered by both.

    Args:
        counted: By several instances.
        tenant: Only this one; None: all.
        model: Only this one; "": all.
    """
    sums: dict[tuple[str, ModelId], Consumption] = {}
    for one in counted:
        if (tenant is not None and one.tenant != tenant) or (model and one.model != model):
            continue
        before = sums.get((one.tenant, one.model), Consumption(one.tenant, one.model))
        sums[one.tenant, one.model] = Consumption(
            one.tenant,
            one.model,
            calls=before.calls + one.calls,
            failed=before.failed + one.failed,
            call_us=before.call_us + one.call_us,
            size=before.size + one.size,
            loads=before.loads + one.loads,
        )
    return [sums[key] for key in sorted(sums)]
