"""The other instances."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from modelmesh.values.dataplane import Consumption, PeerAddress
from modelmesh.values.explanation import ModelHistory
from modelmesh.values.ids import InstanceId, ModelId, Revision, VModelId
from modelmesh.values.memory import Memory
from modelmesh.values.vmodel_counts import VModelCounts


class PeerState(enum.Enum):
    """How a peer answered EnsureLoaded."""

    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """Answer to EnsureLoaded. `refusal` is a value of `Outcome`, or "" unless REFUSED."""

    state: PeerState
    message: str = ""
    refusal: str = ""
    view: Revision | None = None


class PeerUnreachableError(Exception):
    """The peer did not answer. `begun`: the connection ended under the call, perhaps because of it."""

    def __init__(self, message: str, *, begun: bool = False) -> None:
        super().__init__(message)
        self.begun = begun


class Peers(Protocol):
    """Control calls to other instances; inference between instances goes through the data plane."""

    async def ensure_loaded(
        self,
        address: PeerAddress,
        model: ModelId,
        *,
        last_use_ms: int,
        sync: bool,
        retry: bool,
        view: Revision | None,
        timeout_ms: int,
    ) -> PeerAnswer:
        """Ask a peer to load a model; `retry`: although it failed there. Raises PeerUnreachableError."""
        ...

    async def recall(self, address: PeerAddress, model: ModelId, *, load: Memory, timeout_ms: int) -> ModelHistory:
        """Ask what a peer remembers of a model, and, if `load` is not nothing, what a load of that size there would do.

        Raises PeerUnreachableError.
        """
        ...

    async def count_usage(self, address: PeerAddress, *, timeout_ms: int) -> tuple[Sequence[Consumption], int]:
        """Ask what was used at a peer, and since when (epoch milliseconds). Raises PeerUnreachableError."""
        ...

    async def count_vmodel(self, address: PeerAddress, vmodel: VModelId, *, timeout_ms: int) -> VModelCounts:
        """Ask what was counted at a peer of the calls of a vmodel. Raises PeerUnreachableError."""
        ...

    async def ping(self, address: PeerAddress, *, timeout_ms: int) -> InstanceId:
        """Ask who answers at an address. Raises PeerUnreachableError."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
