"""The ports: what the control plane needs from the outside, as protocols.

Implementations are in `modelmesh.adapters` (the real ones) and `modelmesh.testing` (public fakes);
one contract suite per port, in `tests/contracts`, runs over both.
"""

from modelmesh.ports.clock import Clock
from modelmesh.ports.dataplane import DataPlane
from modelmesh.ports.peers import PeerAnswer, Peers, PeerState, PeerUnreachableError
from modelmesh.ports.runtime import ModelSource, Runtime, RuntimeCallError, RuntimeLoaded, RuntimeState, RuntimeStatus
from modelmesh.ports.store import (
    Answer,
    Change,
    ChangeKind,
    CompactedError,
    Compare,
    Delete,
    Get,
    KeyValue,
    LeaseNotFoundError,
    Listing,
    Operation,
    Put,
    Store,
    StoreError,
    StoreUnavailableError,
    Transaction,
    TransactionResult,
)

__all__ = [
    "Answer",
    "Change",
    "ChangeKind",
    "Clock",
    "CompactedError",
    "Compare",
    "DataPlane",
    "Delete",
    "Get",
    "KeyValue",
    "LeaseNotFoundError",
    "Listing",
    "ModelSource",
    "Operation",
    "PeerAnswer",
    "PeerState",
    "PeerUnreachableError",
    "Peers",
    "Put",
    "Runtime",
    "RuntimeCallError",
    "RuntimeLoaded",
    "RuntimeState",
    "RuntimeStatus",
    "Store",
    "StoreError",
    "StoreUnavailableError",
    "Transaction",
    "TransactionResult",
]
