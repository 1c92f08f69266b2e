"""What moves the bytes of calls."""

from collections.abc import Callable, Sequence
from typing import Protocol

from modelmesh.values.dataplane import (
    Consumption,
    DataPlaneEvent,
    Naming,
    PeerAddress,
    Resolution,
    Route,
    Rules,
    TenantLimits,
    Usage,
    Verdict,
)
from modelmesh.values.ids import InstanceId, LoadId, ModelId, Token, VModelId
from modelmesh.values.rollout import ModelCounts
from modelmesh.values.shadow import ShadowCounts
from modelmesh.values.status import Status


class DataPlane(Protocol):
    """Moves the bytes. Calls return at once and never raise for a token or model that no longer exists."""

    def listen(self, receive: Callable[[Sequence[DataPlaneEvent]], None]) -> None:
        """Deliver events, in order and in batches, on the event loop's thread. Called once, before `start`."""
        ...

    def start(self) -> None:
        """Bind and begin. Raises OSError naming an address that is in use."""
        ...

    @property
    def serving_port(self) -> int | None:
        """The bound port; None if there is no serving listener."""
        ...

    @property
    def peer_port(self) -> int | None:
        """The bound port; None if there is no peer listener."""
        ...

    def set_routes(self, routes: Sequence[tuple[ModelId, Route | None]]) -> None:
        """Replace the routes of some models; None drops one. Applied in order."""
        ...

    def set_vmodels(self, vmodels: Sequence[tuple[VModelId, Naming | None]]) -> None:
        """Replace the models of vmodels; None drops a vmodel.

        A call belongs to the same share each time it is looked up: by chance, or by the client's `mm-split-key`.
        """
        ...

    def set_peers(self, peers: Sequence[tuple[InstanceId, PeerAddress | None]]) -> None:
        """Replace addresses of instances; None closes the connections to one."""
        ...

    def set_rules(self, rules: Rules) -> None:
        """Replace which methods exist and who answers them."""
        ...

    def set_access(self, tenants: Sequence[TenantLimits] | None) -> None:
        """Check the credential of each call from now on, and forget known credentials; None: no check any more."""
        ...

    def answer_asked(self, token: Token, verdict: Verdict) -> None:
        """Answer which principal has the credential."""
        ...

    def resolve(self, resolutions: Sequence[tuple[Token, Resolution]]) -> None:
        """Resolve held requests."""
        ...

    def reply(self, token: Token, message: bytes, *, last: bool) -> None:
        """Send an answer message of a call; `last` ends it with OK."""
        ...

    def finish(
        self, token: Token, status: Status, message: str = "", trailers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """End a call with a status."""
        ...

    def end_copy(self, model: ModelId, load_id: LoadId) -> None:
        """End what still runs on a local copy, as failed attempts."""
        ...

    def is_idle(self, model: ModelId, load_id: LoadId) -> bool:
        """Whether a local copy is closed and nothing runs on it; if something does, `CopyIdle` follows."""
        ...

    def runtime_hangs(self) -> None:
        """The runtime does not answer: calls on it that can be repeated, and were not yet, end as failed attempts."""
        ...

    def usage(self) -> Sequence[Usage]:
        """Use of the routes used since the last call or in use now."""
        ...

    def count_load(self, tenant: str, model: ModelId) -> None:
        """A model has been loaded here that a tenant registered ("": none)."""
        ...

    def consumption(self) -> Sequence[Consumption]:
        """What was used here since the start. Bounded: what exceeds the bound, and what was used of models that are not registered any more, is counted for the model `(other)`."""
        ...

    def shadows(self) -> Sequence[tuple[VModelId, ShadowCounts]]:
        """Results of calls of each vmodel that were to be copied to a model, since the start."""
        ...

    def tallies_of(self, vmodel: VModelId) -> tuple[int, Sequence[ModelCounts]] | None:
        """What was counted of the models of a vmodel, and under which id (`Naming.trial`); None: nothing is counted."""
        ...

    def held(self) -> tuple[int, int]:
        """Held requests and their bytes."""
        ...

    def thread_ages_ms(self) -> Sequence[int]:
        """Milliseconds since each thread last turned."""
        ...

    def drain(self) -> None:
        """Take no new connections and send GOAWAY on the open ones; running calls continue."""
        ...

    def close(self) -> None:
        """Stop."""
        ...
