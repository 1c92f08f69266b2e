"""The life of one copy of a model at this instance.

    absent → claiming → queued → waiting → loading → (sizing →) ready → withdrawing → leaving → unloading → absent

Driven by `modelmesh.control.copies.steps`, which performs the effects. The key of a copy is in the store from
`claiming` to `withdrawing`; its bytes are granted from `waiting` until `unloading` has been confirmed.
"""

import enum

from modelmesh.machines.table import Machine


class CopyState(enum.Enum):
    """Where a copy is in its life."""

    ABSENT = "absent"
    CLAIMING = "claiming"
    ABANDONED = "abandoned"
    QUEUED = "queued"
    WAITING = "waiting"
    LOADING = "loading"
    SIZING = "sizing"
    READY = "ready"
    WITHDRAWING = "withdrawing"
    LEAVING = "leaving"
    UNLOADING = "unloading"


class CopyInput(enum.Enum):
    """What may happen to it."""

    REQUESTED = "requested"
    CLAIMED = "claimed"
    CLAIM_REFUSED = "claim_refused"
    CLAIMED_TOO_LARGE = "claimed_too_large"
    SLOT_FREE = "slot_free"
    MEMORY_GRANTED = "memory_granted"
    LOADED = "loaded"
    LOADED_UNSIZED = "loaded_unsized"
    SIZED = "sized"
    LOAD_FAILED = "load_failed"
    LOAD_NOT_BEGUN = "load_not_begun"
    DROPPED = "dropped"
    VOIDED = "voided"
    WITHDRAWN = "withdrawn"
    KEPT = "kept"
    IDLE = "idle"
    UNLOADED = "unloaded"
    RUNTIME_EMPTIED = "runtime_emptied"


class CopyEffect(enum.Enum):
    """What must be done."""

    CLAIM = "claim"
    RELEASE = "release"
    ENQUEUE = "enqueue"
    DEQUEUE = "dequeue"
    RESERVE = "reserve"
    LOAD = "load"
    CANCEL_LOAD = "cancel_load"
    OPEN = "open"
    PUBLISH = "publish"
    MEASURE = "measure"
    SETTLE = "settle"
    RECORD_FAILURE = "record_failure"
    LEAVE = "leave"
    STAY = "stay"
    WITHDRAW = "withdraw"
    REMOVE_KEY = "remove_key"
    CLOSE = "close"
    AWAIT_IDLE = "await_idle"
    UNLOAD = "unload"
    FREE = "free"
    FORGET = "forget"


S, I, E = CopyState, CopyInput, CopyEffect  # noqa: E741 - the table reads by its letters

TRANSITIONS: dict[tuple[CopyState, CopyInput], tuple[CopyState, tuple[CopyEffect, ...]]] = {
    (S.ABSENT, I.REQUESTED): (S.CLAIMING, (E.CLAIM,)),
    # The claim decides who loads. Nothing is queued or reserved before it is won.
    (S.CLAIMING, I.CLAIMED): (S.QUEUED, (E.ENQUEUE,)),
    (S.CLAIMING, I.CLAIM_REFUSED): (S.ABSENT, (E.RELEASE, E.FORGET)),
    # The runtime has predicted a larger size meanwhile, so the load is refused after all.
    (S.CLAIMING, I.CLAIMED_TOO_LARGE): (S.ABSENT, (E.REMOVE_KEY, E.RELEASE, E.FORGET)),
    (S.CLAIMING, I.DROPPED): (S.ABANDONED, (E.RELEASE,)),
    (S.ABANDONED, I.CLAIMED): (S.ABSENT, (E.REMOVE_KEY, E.FORGET)),
    (S.ABANDONED, I.CLAIMED_TOO_LARGE): (S.ABSENT, (E.REMOVE_KEY, E.FORGET)),
    (S.ABANDONED, I.CLAIM_REFUSED): (S.ABSENT, (E.FORGET,)),
    (S.ABANDONED, I.DROPPED): (S.ABANDONED, ()),
    # Queued: there is a key, no memory is granted.
    (S.QUEUED, I.SLOT_FREE): (S.WAITING, (E.RESERVE,)),
    (S.QUEUED, I.DROPPED): (S.ABSENT, (E.DEQUEUE, E.REMOVE_KEY, E.RELEASE, E.FORGET)),
    (S.WAITING, I.MEMORY_GRANTED): (S.LOADING, (E.LOAD,)),
    (S.WAITING, I.DROPPED): (S.ABSENT, (E.FREE, E.REMOVE_KEY, E.RELEASE, E.FORGET)),
    # Callers continue before other instances are informed.
    (S.LOADING, I.LOADED): (S.READY, (E.SETTLE, E.OPEN, E.RELEASE, E.PUBLISH)),
    (S.LOADING, I.LOADED_UNSIZED): (S.SIZING, (E.OPEN, E.RELEASE, E.PUBLISH, E.MEASURE)),
    # The runtime may hold part of a model whose load failed: its memory is free again when the runtime confirms the unload.
    # Callers get the failure after it is recorded, so that their next call sees it.
    (S.LOADING, I.LOAD_FAILED): (S.UNLOADING, (E.LEAVE, E.RECORD_FAILURE, E.UNLOAD)),
    (S.LOADING, I.LOAD_NOT_BEGUN): (S.ABSENT, (E.FREE, E.REMOVE_KEY, E.RELEASE, E.FORGET)),
    (S.LOADING, I.DROPPED): (S.UNLOADING, (E.LEAVE, E.CANCEL_LOAD, E.REMOVE_KEY, E.RELEASE, E.UNLOAD)),
    (S.SIZING, I.SIZED): (S.READY, (E.SETTLE, E.PUBLISH)),
    # The eviction order: key, route, last request, memory.
    (S.SIZING, I.DROPPED): (S.WITHDRAWING, (E.LEAVE, E.WITHDRAW)),
    (S.READY, I.DROPPED): (S.WITHDRAWING, (E.LEAVE, E.WITHDRAW)),
    (S.WITHDRAWING, I.WITHDRAWN): (S.LEAVING, (E.CLOSE, E.AWAIT_IDLE)),
    # Its key may have been deleted with the lease, and keys of leaving copies are not written again with the others.
    (S.WITHDRAWING, I.KEPT): (S.READY, (E.STAY, E.PUBLISH)),
    # Its record was deleted or replaced: it must not serve any call, however long the store takes to delete its key.
    (S.WITHDRAWING, I.VOIDED): (S.LEAVING, (E.CLOSE, E.AWAIT_IDLE)),
    (S.LEAVING, I.IDLE): (S.UNLOADING, (E.UNLOAD,)),
    (S.UNLOADING, I.UNLOADED): (S.ABSENT, (E.FREE, E.FORGET)),
    # Measured after all, on a copy that was to leave and stayed.
    (S.READY, I.SIZED): (S.READY, (E.SETTLE, E.PUBLISH)),
    # Dropping a copy that is leaving changes nothing; a late size or answer is stale.
    (S.WITHDRAWING, I.DROPPED): (S.WITHDRAWING, ()),
    (S.WITHDRAWING, I.SIZED): (S.WITHDRAWING, ()),
    (S.LEAVING, I.DROPPED): (S.LEAVING, ()),
    (S.LEAVING, I.SIZED): (S.LEAVING, ()),
    (S.UNLOADING, I.DROPPED): (S.UNLOADING, ()),
    (S.UNLOADING, I.SIZED): (S.UNLOADING, ()),
    # The runtime came back empty: its models are no longer loaded, without an unload.
    (S.SIZING, I.RUNTIME_EMPTIED): (S.ABSENT, (E.CLOSE, E.REMOVE_KEY, E.FREE, E.FORGET)),
    (S.READY, I.RUNTIME_EMPTIED): (S.ABSENT, (E.CLOSE, E.REMOVE_KEY, E.FREE, E.FORGET)),
    (S.LEAVING, I.RUNTIME_EMPTIED): (S.ABSENT, (E.FREE, E.FORGET)),
    (S.UNLOADING, I.RUNTIME_EMPTIED): (S.ABSENT, (E.FREE, E.FORGET)),
}


class ModelCopyMachine(Machine[CopyState, CopyInput, CopyEffect]):
    """One copy, from absent to absent."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(TRANSITIONS, CopyState.ABSENT)
