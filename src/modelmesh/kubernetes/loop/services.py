"""What every reconcile works with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from modelmesh.kubernetes.loop.apply import Applier
from modelmesh.kubernetes.loop.demands import Demands
from modelmesh.kubernetes.loop.mesh import Mesh
from modelmesh.kubernetes.loop.recorder import Recorder
from modelmesh.kubernetes.loop.status_writer import StatusWriter
from modelmesh.kubernetes.loop.world import World
from modelmesh.kubernetes.ports import Api
from modelmesh.ports import Clock


@dataclass(frozen=True, slots=True)
class Services:
    """Parts that the reconciles of all kinds share.

    Attributes:
        meshes: Of the namespaces that are served.
        log: Writes a line: an event's name, and fields.
        demands: How many pods runtimes need.
    """

    world: World
    api: Api
    clock: Clock
    applier: Applier
    statuses: StatusWriter
    recorder: Recorder
    log: Callable[..., object]
    demands: Demands
    meshes: Mapping[str, Mesh] = field(default_factory=dict)
