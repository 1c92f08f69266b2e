"""Whether a tenant may have one more model registered or loaded, and the error for its caller if not.

Called by `modelmesh.control.view.tenants` at registrations, and by `modelmesh.policy.attempt` where a load is placed. Quotas of
calls are the core's (`crates/core/src/access/tenant.rs`).
"""

from dataclasses import dataclass

from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.view import ClusterView


@dataclass(frozen=True, slots=True)
class LoadQuota:
    """What the models of a tenant may take in the cluster, and take: copies that are loaded or loading.

    `idle`: what those of its copies take that are idle at this instance. `holders`: instances with copies of the tenant.
    """

    tenant: str
    limit: Memory
    loaded: Memory
    idle: Memory = NOTHING
    holders: tuple[InstanceId, ...] = ()


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
        "its idle copies do not make enough room: repeat the call later, or unload a model"
    )


def own_to_unload(quota: LoadQuota, size: Memory) -> Memory | None:
    """How much of the tenant's idle copies here must go so that a load of that size keeps the quota; None: all are not enough."""
    if not size.fits(quota.limit):
        return None
    need = quota.loaded + size - quota.limit
    return need if need.fits(quota.idle) else None


def where_to_replace(
    quota: LoadQuota, size: Memory, cluster: ClusterView, tried: frozenset[InstanceId]
) -> InstanceId | None:
    """Where copies of the tenant can be unloaded for a load of that size; None: nowhere, or it was tried everywhere.

    Here, if enough of them are idle; else at an instance that has copies of the tenant, which knows whether they are idle.
    """
    if own_to_unload(quota, size) is not None and cluster.own not in tried:
        return cluster.own
    if not size.fits(quota.limit):
        return None
    views = (
        cluster.instance(instance) for instance in quota.holders if instance not in tried and instance != cluster.own
    )
    return next((one.instance for one in views if one is not None and one.reachable and not one.record.draining), None)
