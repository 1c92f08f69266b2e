"""The first half of every move: a copy of this instance is loaded elsewhere. Only then may it be unloaded here.

Why a copy should move, how many at a time, and what follows a refusal is for those who ask: `balance`, `misplaced`, `drain`.
"""

from dataclasses import dataclass

from modelmesh.control.copies.cache import Cache
from modelmesh.control.decide import Decider
from modelmesh.control.requests.journeys import Requests
from modelmesh.control.view.records import NotReadError, RecordCache
from modelmesh.ports import PeerState, StoreError
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.records import ModelRecord


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """One more copy is at `instance`; None: the copies changed while it was asked for, so that none was added.

    Attributes:
        ready: It is loaded; else it is loading.
        seen: The view has more ready copies elsewhere than before.
    """

    instance: InstanceId | None
    ready: bool
    seen: bool


@dataclass(frozen=True, slots=True)
class NotMoved:
    """No instance took the copy, or its record was not read; `why` for people."""

    why: str


@dataclass(frozen=True, slots=True)
class Unregistered:
    """There is nothing to move: the model's record no longer exists."""


class Mover:
    """Loads copies of this instance elsewhere."""

    def __init__(
        self,
        *,
        own: InstanceId,
        cache: Cache,
        decider: Decider,
        requests: Requests,
        models: RecordCache[ModelId, ModelRecord],
    ) -> None:
        self._own = own
        self._cache = cache
        self._decider = decider
        self._requests = requests
        self._models = models

    async def load_elsewhere(
        self, model: ModelId, *, exclude: frozenset[InstanceId] = frozenset(), sync: bool = True, tries: int = 1
    ) -> Elsewhere | NotMoved | Unregistered:
        """Load one more copy of a model that is held here, as recently used as the one here.

        Args:
            model: Its id.
            exclude: Instances that are not asked.
            sync: Wait until it is loaded; else only until an instance has accepted the load.
            tries: How often an instance is asked before the view has one more ready copy elsewhere.
        """
        try:
            registered = await self._models.get(model)
            if registered is None:
                return Unregistered()
            before = self._ready_elsewhere(model)
            while True:
                tries -= 1
                ensured = await self._requests.ensure(
                    model,
                    registered,
                    last_use_ms=self._cache.usage.last_use_ms(model),
                    sync=sync,
                    extra=True,
                    exclude=exclude,
                )
                if ensured.state not in {PeerState.LOADED, PeerState.LOADING}:
                    return NotMoved(ensured.message or "refused")
                seen = self._ready_elsewhere(model) > before
                if seen or tries <= 0:
                    return Elsewhere(ensured.instance, ensured.state is PeerState.LOADED, seen)
        except (StoreError, NotReadError) as error:
            return NotMoved(str(error))

    def _ready_elsewhere(self, model: ModelId) -> int:
        copies = self._decider.model_view(model, None).copies
        return sum(copy.ready and copy.instance != self._own for copy in copies)
