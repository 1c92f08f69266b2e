"""The link to the runtime beside us.

A lost connection is not a restart: when it is back, the size of a held model is asked first, and only
if the runtime does not know it is `runtimeStatus` asked, which existing runtimes answer by dropping
every model. A runtime that hangs keeps its models, but gets no loads and calls until it answers. Driven by `modelmesh.control.copies.runtime_link`.
"""

import enum

from modelmesh.machines.table import Machine


class LinkState(enum.Enum):
    """The state of the connection to the runtime."""

    STARTING = "starting"
    READY = "ready"
    LOST = "lost"
    HUNG = "hung"
    PROBING = "probing"
    RESTARTING = "restarting"


class LinkInput(enum.Enum):
    """What may happen."""

    BECAME_READY = "became_ready"
    CONNECTION_LOST = "connection_lost"
    CONNECTION_BACK = "connection_back"
    SILENT = "silent"
    ANSWERED = "answered"
    MODELS_THERE = "models_there"
    MODELS_GONE = "models_gone"


class LinkEffect(enum.Enum):
    """What must be done."""

    OPEN = "open"
    CLOSE = "close"
    MOVE_CALLS = "move_calls"
    PROBE = "probe"
    DROP_COPIES = "drop_copies"
    ASK_STATUS = "ask_status"


S, I, E = LinkState, LinkInput, LinkEffect  # noqa: E741 - the table reads by its letters

TRANSITIONS: dict[tuple[LinkState, LinkInput], tuple[LinkState, tuple[LinkEffect, ...]]] = {
    (S.STARTING, I.BECAME_READY): (S.READY, (E.OPEN,)),
    (S.STARTING, I.CONNECTION_LOST): (S.STARTING, ()),
    (S.STARTING, I.CONNECTION_BACK): (S.STARTING, ()),
    (S.READY, I.CONNECTION_LOST): (S.LOST, (E.CLOSE,)),
    (S.READY, I.CONNECTION_BACK): (S.READY, ()),
    (S.LOST, I.CONNECTION_LOST): (S.LOST, ()),
    (S.LOST, I.CONNECTION_BACK): (S.PROBING, (E.PROBE,)),
    (S.PROBING, I.CONNECTION_LOST): (S.LOST, ()),
    (S.PROBING, I.CONNECTION_BACK): (S.PROBING, ()),
    (S.PROBING, I.MODELS_THERE): (S.READY, (E.OPEN,)),
    (S.PROBING, I.MODELS_GONE): (S.RESTARTING, (E.DROP_COPIES, E.ASK_STATUS)),
    # It takes what it is given and answers nothing. Its connections may break meanwhile, and come back.
    (S.READY, I.SILENT): (S.HUNG, (E.CLOSE, E.MOVE_CALLS)),
    (S.PROBING, I.SILENT): (S.HUNG, ()),
    (S.HUNG, I.SILENT): (S.HUNG, ()),
    (S.HUNG, I.ANSWERED): (S.PROBING, (E.PROBE,)),
    (S.HUNG, I.CONNECTION_LOST): (S.LOST, ()),
    (S.HUNG, I.CONNECTION_BACK): (S.HUNG, ()),
    (S.HUNG, I.MODELS_THERE): (S.HUNG, ()),
    (S.HUNG, I.MODELS_GONE): (S.HUNG, ()),
    (S.LOST, I.MODELS_THERE): (S.LOST, ()),
    (S.LOST, I.MODELS_GONE): (S.LOST, ()),
    # Copies are given up already; a further loss changes nothing, the status is asked until it is READY.
    (S.RESTARTING, I.CONNECTION_LOST): (S.RESTARTING, ()),
    (S.RESTARTING, I.CONNECTION_BACK): (S.RESTARTING, ()),
    (S.RESTARTING, I.BECAME_READY): (S.READY, (E.OPEN,)),
}


class RuntimeLinkMachine(Machine[LinkState, LinkInput, LinkEffect]):
    """The link, from the first poll on."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(TRANSITIONS, LinkState.STARTING)
