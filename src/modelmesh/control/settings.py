"""The identity of an instance, and the settings of its decisions."""

from dataclasses import dataclass, field
from typing import Literal

from modelmesh.policy.copies import CopiesLimits
from modelmesh.values.ids import InstanceId


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """Who this instance is. `address` is where others reach its peer port."""

    instance: InstanceId
    address: str
    tls_name: str = ""
    labels: tuple[str, ...] = ()
    zone: str = ""
    location: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """What an operator sets of the control plane's behaviour."""

    failure_expiry_ms: int = 900_000
    default_vmodel_owner: str = ""
    copies: CopiesLimits = field(default_factory=CopiesLimits)
    bandwidth_percent: int = 90
    """In latency mode: how much of what a copy can do it should do before one more is added."""

    eviction: Literal["adaptive", "lru"] = "adaptive"
    """Which copies leave: those that the best of several policies would not hold, or those unused longest."""

    in_flight_max: int = 0
    """Calls that run at or wait for a copy whose concurrency is limited; 0: eight times it, negative: no bound."""

    read_only: bool = False
    """Nothing is registered, changed or cleaned up; models are loaded and served."""

    bootstrap_ms: int = 180_000
    """Failing loads in so long after the start keep this instance from becoming ready; 0: they never do."""
