"""Whether a tenant may have one more model registered or loaded, and what its caller is told if not.

Called by `modelmesh.control.view.tenants` at registrations, and by `modelmesh.policy.attempt` where a load is placed. Quotas of
calls are the core's (`crates/core/src/access/tenant.rs`).
"""

from dataclasses import dataclass

from modelmesh.values.ids import ModelId
from modelmesh.values.memory import Memory


@dataclass(frozen=True, slots=True)
class LoadQuota:
    """What the models of a tenant may take in the cluster, and take: copies that are loaded or loading."""

    tenant: str
    limit: Memory
    loaded: Memory


def refuse_model(tenant: str, *, limit: int, registered: int) -> str:
    """Why a tenant may not register one more model; empty: it may. `registered`: how many it has."""
    if registered < limit:
        return ""
    return f"tenant {tenant} has {registered} models registered, its limit is {limit}; unregister one first"


def refuse_load(quota: LoadQuota, model: ModelId, size: Memory) -> str:
    """Why one more copy of a tenant's model may not be loaded; empty: it may. `size`: predicted."""
    tenant, limit, loaded = quota.tenant, quota.limit, quota.loaded
    if (loaded + size).fits(limit):
        return ""
    if not size.fits(limit):
        return f"model {model} needs {size}, and tenant {tenant} may have {limit} loaded in all"
    return (
        f"tenant {tenant} has {loaded} loaded, its limit is {limit}, and model {model} needs {size}; "
        "unload another model of the tenant first"
    )
