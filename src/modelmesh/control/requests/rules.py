"""Which calls the data plane takes: the services that Python answers, and the methods of models."""

from modelmesh.control.copies.runtime_link import RuntimeParameters
from modelmesh.control.journal import Journal
from modelmesh.policy.methods import AllowedMethods, RuntimeMethods, combine
from modelmesh.ports import DataPlane
from modelmesh.values.dataplane import MethodRule, Rules


class CallRules:
    """Combines the methods of the services, the runtime and the operator, whenever one of them changes."""

    def __init__(self, *, dataplane: DataPlane, journal: Journal) -> None:
        self._dataplane = dataplane
        self._journal = journal
        self._serving_services: tuple[str, ...] = ()
        self._peer_services: tuple[str, ...] = ()
        self._management_services: tuple[str, ...] = ()
        self._serving_methods: tuple[str, ...] = ()
        self._allowed = AllowedMethods()
        self._runtime = RuntimeMethods()

    def answer(
        self,
        *,
        serving_services: tuple[str, ...],
        peer_services: tuple[str, ...],
        management_services: tuple[str, ...] = (),
        serving_methods: tuple[str, ...] = (),
    ) -> None:
        """From now on these services are answered, on each port, and these methods of services of models."""
        self._serving_methods = serving_methods
        self._serving_services = serving_services
        self._peer_services = peer_services
        self._management_services = management_services
        self._send()

    def allow(self, allowed: AllowedMethods) -> None:
        """Allow these methods to clients, with ids where the configuration says."""
        self._allowed = allowed
        self._send()
        self._journal.note("methods_changed", detail=f"{len(allowed.methods)} methods are configured")

    def runtime_reported(self, parameters: RuntimeParameters) -> None:
        """The runtime has reported its methods and where they have ids."""
        self._runtime = RuntimeMethods(parameters.injection_paths, parameters.allows_any_method)
        self._send()

    def _send(self) -> None:
        rules = combine(self._runtime, self._allowed)
        self._dataplane.set_rules(
            Rules(
                serving_services=self._serving_services,
                peer_services=self._peer_services,
                management_services=self._management_services,
                methods=(*rules.methods, *(MethodRule(method, ours=True) for method in self._serving_methods)),
                allow_others=rules.allow_others,
            )
        )
