"""Moves this instance's copies elsewhere before it leaves, while it still serves."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from modelmesh.control.copies.cache import Cache
from modelmesh.control.decide import Decider
from modelmesh.control.journal import Journal
from modelmesh.control.requests.mover import Elsewhere, Mover, NotMoved
from modelmesh.policy.drain import LeavingCopy, Move, plan_drain
from modelmesh.values.ids import InstanceId, ModelId

AT_ONCE_MAX = 64
"""Loads elsewhere at a time; fewer if the others have fewer loading slots."""

TRIES = 3


@dataclass(slots=True)
class Drained:
    """How a drain went. `left`: what could not be moved, and why."""

    moved: int = 0
    left: dict[ModelId, str] = field(default_factory=dict)


class Drain:
    """Loads copies elsewhere until the cluster can do without this instance.

    Args:
        rate: Requests per minute on the copy here.
    """

    def __init__(
        self,
        *,
        own: InstanceId,
        cache: Cache,
        decider: Decider,
        mover: Mover,
        rate: Callable[[ModelId], int],
        journal: Journal,
    ) -> None:
        self._own = own
        self._cache = cache
        self._decider = decider
        self._mover = mover
        self._rate = rate
        self._journal = journal

    async def run(self, timeout_ms: int) -> Drained:
        """Move what is loaded, hottest first, several at a time; ends when all is moved or the time is up."""
        result = Drained()
        others = [entry for entry in self._decider.cluster_view().instances if entry.instance != self._own]
        if not any(entry.available for entry in others):
            self._journal.note("drained", detail="no other instance can take over")
            return result
        self._cache.look_at_usage()
        moves, _ = plan_drain(self._leaving())
        for move in moves:
            result.left[move.model] = "the time was up"
        slots = sum(entry.record.loading_slots for entry in others if entry.available)
        queue = iter(moves)
        workers = [
            asyncio.ensure_future(self._work(queue, result)) for _ in range(min(AT_ONCE_MAX, max(1, slots), len(moves)))
        ]
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await asyncio.gather(*workers)
        except TimeoutError:
            await asyncio.gather(*workers, return_exceptions=True)
        detail = f"{result.moved} of {len(moves)} copies are loaded elsewhere now"
        if result.left:
            named = [f"{model} ({why})" for model, why in list(result.left.items())[:10]]
            more = f" and {len(result.left) - 10} more" if len(result.left) > len(named) else ""
            detail += f"; not moved: {', '.join(named)}{more}"
        self._journal.note("drained", detail=detail)
        return result

    def _leaving(self) -> list[LeavingCopy]:
        view = self._decider.cluster_view()
        staying = {entry.instance: None for entry in view.instances if entry.available and entry.instance != self._own}
        leaving = []
        for model in self._cache.ready():
            copies = self._decider.model_view(model, None).copies
            elsewhere = sum(copy.ready and copy.instance in staying for copy in copies)
            leaving.append(
                LeavingCopy(
                    model,
                    last_use_ms=self._cache.usage.last_use_ms(model),
                    in_use=self._cache.usage.busy(model),
                    rate=self._rate(model),
                    elsewhere=elsewhere,
                    wanted=min(len(copies), len(staying)),
                )
            )
        return leaving

    async def _work(self, queue: Iterator[Move], result: Drained) -> None:
        for move in queue:
            why = await self._move(move)
            if why is None:
                result.moved += 1
                del result.left[move.model]
            else:
                result.left[move.model] = why
                self._journal.note("left_behind", move.model, detail=why)

    async def _move(self, move: Move) -> str | None:
        """Load one copy elsewhere; None, or why not."""
        match await self._mover.load_elsewhere(move.model, exclude=frozenset((self._own,)), tries=TRIES):
            case NotMoved(why):
                return why
            case Elsewhere(seen=False):
                return "its copies kept changing"
            case Elsewhere(instance):
                self._journal.note("moved", move.model, move.reason.value, f"to {instance}")
        return None
