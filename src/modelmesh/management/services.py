"""All services that Python answers, put together for one instance."""

from collections.abc import Callable, Iterable

from modelmesh.control.plane import ControlPlane
from modelmesh.control.requests.receive import CallHandlers
from modelmesh.management.access import Access
from modelmesh.management.admin import Admin
from modelmesh.management.batches import Batches
from modelmesh.management.calls import CallServer
from modelmesh.management.console import Console
from modelmesh.management.health import Health
from modelmesh.management.labels import Labels
from modelmesh.management.models import Models
from modelmesh.management.peer import Peer
from modelmesh.management.reflection import AskRuntime, Reflection
from modelmesh.management.repository import Repository
from modelmesh.management.rollouts import Rollouts
from modelmesh.management.server import Server
from modelmesh.management.shadows import Shadows
from modelmesh.management.splits import Splits
from modelmesh.management.tenants import TenantCalls
from modelmesh.management.usage import UsageCalls
from modelmesh.management.vmodel_counts import CountCalls
from modelmesh.management.vmodels import VModelCalls
from modelmesh.management.watch_status import WatchStatus
from modelmesh.values.dataplane import Headers


def serve(
    plane: ControlPlane,
    *,
    access: Access,
    ready: Callable[[], bool],
    ask_runtime: AskRuntime,
    failed: Callable[[str, Exception], None],
    entered: Callable[[Headers], object] = lambda _: None,
    apart: bool = False,
) -> None:
    """Let `plane` answer our services.

    Args:
        plane: The control plane they ask.
        access: Who may do what.
        ready: Whether this instance can serve calls.
        ask_runtime: Sends a reflection request to the runtime.
        failed: Called for every handler that ended by an unexpected exception.
        entered: Called for each call's headers, in the task that answers it.
        apart: Management has a listener of its own, and is answered there only.
    """
    models, admin = Models(plane), Admin(plane)
    splits, vmodels, labels = Splits(plane, models), VModelCalls(plane, models), Labels(plane, models)
    serving = {
        **models.methods(),
        **vmodels.methods(),
        **Batches(models, vmodels).methods(),
        **WatchStatus(plane).methods(),
        **admin.methods(),
        **splits.methods(),
        **TenantCalls(plane).methods(),
        **UsageCalls(plane).methods(),
        **labels.methods(),
        **Shadows(plane, labels).methods(),
        **Rollouts(plane, labels, splits).methods(),
        **CountCalls(plane).methods(),
    }
    reflection = Reflection(ask_runtime).methods()
    serving |= reflection
    serving |= Console(plane, serving).methods()
    peer = Peer(plane).methods()
    services = _services(serving)
    managing = tuple(name for name in services if name not in _services(reflection))
    health = Health(ready=ready, services=services, clock=plane.clock).methods()
    serving |= health
    methods = {**Server(ready).methods(), **Repository(plane, models, admin, splits).methods()}
    serving |= methods
    server = CallServer(
        dataplane=plane.dataplane,
        tasks=plane.tasks,
        methods={**serving, **peer},
        access=access,
        failed=failed,
        entered=entered,
    )
    plane.answer_calls(
        CallHandlers(server.called, server.message, server.cancelled, access.asked),
        serving_services=(*services, "grpc.health.v1.Health"),
        serving_methods=tuple(methods),
        peer_services=_services((*peer, *health)),
        management_services=managing if apart else (),
    )


def _services(methods: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name.partition("/")[0] for name in methods}))
