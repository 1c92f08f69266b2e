"""A request that waits for a decision."""

import asyncio
from dataclasses import dataclass, field

from modelmesh.policy.attempt import GiveUp, Journey
from modelmesh.values.ids import ModelId, Revision, Token, VModelId
from modelmesh.values.priority import Priority


@dataclass(slots=True)
class Held:
    """A request that is held. `view`: that of the instance which asked us to load; `behind`: what ours must reach.

    `deadline_ms` and `sent_ms` are monotonic. `doubted`: the instance that we asked has lost the store, and the store has not answered us since either.
    """

    token: Token
    model: ModelId
    vmodel: VModelId | None
    journey: Journey
    priority: Priority = Priority.NORMAL
    view: Revision | None = None
    behind: Revision | None = None
    stale_turns: int = 0
    reroutes: int = 0
    sent_ms: int = 0
    deadline_ms: int | None = None
    doubted: bool = False
    gave_up: GiveUp | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)
