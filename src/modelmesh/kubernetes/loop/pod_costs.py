"""Says which pods of a runtime are cheap to empty, before one of them goes: a Deployment takes the cheapest first."""

from modelmesh.declared import Runtime
from modelmesh.kubernetes.config import Config
from modelmesh.kubernetes.kinds import POD, Key, Object
from modelmesh.kubernetes.loop.services import Services
from modelmesh.kubernetes.ports import ApiError
from modelmesh.kubernetes.render import ScaledBy, deployment_name, scaled_by
from modelmesh.kubernetes.replicas import Pods

COST = "controller.kubernetes.io/pod-deletion-cost"


class PodCosts:
    """Writes the costs when fewer pods are about to be asked for, and not otherwise: each is a write."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._written: dict[Key, int] = {}

    async def write(self, namespace: str, runtime: Runtime, config: Config, live: Object | None, pods: Pods) -> None:
        """Write them if a pod goes. That they cannot be written keeps no pod: then any one goes."""
        sample = self._services.demands.get(namespace, runtime.name)
        before = (live or {}).get("spec", {}).get("replicas") or 0
        after = pods.replicas
        if after is None and sample is not None and scaled_by(runtime) is ScaledBy.OTHERS:
            after = sample.demand.pods  # they are asked for it, or will be
        if sample is None or not after or after >= before:
            return
        known = self._services.world.pods(namespace, config)
        prefix = f"{deployment_name(runtime, config)}-"
        for instance, cost in sorted(sample.costs.items()):
            name = next((one for one in sorted(known) if one.startswith(prefix) and one.endswith(instance)), None)
            if name is None or self._written.get(key := Key(namespace, name)) == cost:
                continue
            try:
                await self._services.api.merge(POD, key, {"metadata": {"annotations": {COST: str(cost)}}})
            except ApiError as error:
                self._services.log("cost of a pod not written", pod=str(key), error=str(error))
                return
            self._written[key] = cost
        self._written = {
            key: cost for key, cost in self._written.items() if key.namespace != namespace or key.name in known
        }
