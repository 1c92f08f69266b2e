"""Asks all other instances the same question, each for two seconds at most."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from modelmesh.control.decide import Decider
from modelmesh.control.requests.routing import Routing
from modelmesh.ports import PeerUnreachableError
from modelmesh.values.dataplane import PeerAddress
from modelmesh.values.ids import InstanceId

ASKED = 256
"""Other instances that are asked."""

AT_A_TIME = 32
ANSWER_MS = 2_000

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Answers(Generic[Answer]):
    """What the others said, in the order of their ids."""

    given: Sequence[tuple[InstanceId, Answer]]
    silent: Sequence[InstanceId]
    """Instances that were not asked, or did not answer."""


class OtherInstances:
    """Those of the view, without this one."""

    def __init__(self, *, own: InstanceId, decider: Decider, routing: Routing) -> None:
        self._own = own
        self._decider = decider
        self._routing = routing

    async def ask(self, question: Callable[[PeerAddress, int], Awaitable[Answer]]) -> Answers[Answer]:
        """Ask all of them.

        Args:
            question: Asks the instance at an address, for so many milliseconds at most. It raises PeerUnreachableError.
        """
        entries = self._decider.cluster_view().instances
        others = sorted(entry.instance for entry in entries if entry.instance != self._own)
        turns = asyncio.Semaphore(AT_A_TIME)

        async def answer(instance: InstanceId) -> Answer | None:
            address = self._routing.address(instance)
            if address is None:
                return None
            async with turns:
                try:
                    return await question(address, ANSWER_MS)
                except PeerUnreachableError:
                    return None

        found = await asyncio.gather(*(answer(instance) for instance in others[:ASKED]))
        asked = list(zip(others, found, strict=False))
        return Answers(
            [(instance, given) for instance, given in asked if given is not None],
            [*(instance for instance, given in asked if given is None), *others[ASKED:]],
        )
