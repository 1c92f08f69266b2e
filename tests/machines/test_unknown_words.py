"""Whatever a later version says: every enumeration on the wire has a meaning for a word that this one does not know."""

import enum
from collections.abc import Callable

import pytest
from google.protobuf.descriptor import EnumDescriptor, FileDescriptor

from modelmesh._proto import (
    admin_pb2,
    grpc_health_pb2,
    model_mesh_pb2,
    model_runtime_pb2,
    open_inference_pb2,
    peer_pb2,
)
from modelmesh.adapters.peers.grpc_peers import peer_answer
from modelmesh.adapters.runtime import grpc_runtime
from modelmesh.cli.text import word_of
from modelmesh.ports import PeerState, RuntimeState
from modelmesh.values import dataplane, records, status
from modelmesh.values.dataplane import Hop, Outcome
from modelmesh.values.records import CopyRecord, CopyState, FailureKind, FailureRecord
from modelmesh.values.status import Status

WORD = "word-from-the-future"
NUMBER = 99


def refused() -> Outcome:
    answer = peer_answer(peer_pb2.EnsureLoadedResponse(state=peer_pb2.EnsureLoadedResponse.REFUSED, refusal=WORD))
    return Outcome(answer.refusal)


OURS: dict[type[enum.Enum], tuple[Callable[[], object], object]] = {
    Outcome: (refused, Outcome.BUSY),
    CopyState: (lambda: CopyRecord.decode(b'{"state":"%b","load":1}' % WORD.encode()).state, CopyState.LOADING),
    FailureKind: (lambda: FailureRecord.decode(b'{"kind":"%b"}' % WORD.encode()).kind, FailureKind.BAD_INSTANCE),
    Status: (lambda: Status(NUMBER), Status.UNKNOWN),
}
"""Words in the store, in headers and in messages: how one is read, and what an unknown one means."""

REFUSED_BY_THE_CORE = {Hop}
"""`identify.rs` answers INVALID_ARGUMENT: what is to be done with the call is the word's whole meaning."""


def test_a_word_of_ours_that_is_not_known_means_something() -> None:
    for read, meaning in OURS.values():
        assert read() is meaning


def test_no_enumeration_of_ours_on_the_wire_is_left_out() -> None:
    there = {
        kind
        for module in (dataplane, records, status)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, enum.Enum) and kind.__module__ == module.__name__
    }
    assert there == {*OURS, *REFUSED_BY_THE_CORE}


def numbers(kind: type[enum.Enum]) -> None:
    with pytest.raises(ValueError, match="None"):
        kind(None)


def test_what_is_no_word_at_all_is_still_refused() -> None:
    for kind in OURS:
        numbers(kind)


SENT_ONLY = "we send it and never read it"
PROTOS: dict[str, object] = {
    "mmesh.RuntimeStatusResponse.Status": lambda: (
        grpc_runtime._STATES.get(NUMBER, RuntimeState.FAILING) is RuntimeState.FAILING  # type: ignore[call-overload]
    ),
    "modelmesh.v1.EnsureLoadedResponse.State": lambda: (
        peer_answer(peer_pb2.EnsureLoadedResponse(state=NUMBER)).state is PeerState.REFUSED  # type: ignore[arg-type]
    ),
    "mmesh.ModelStatusInfo.ModelStatus": lambda: (
        word_of(model_mesh_pb2.ModelStatusInfo.ModelStatus, NUMBER) == "UNKNOWN_99"
    ),
    "mmesh.VModelStatusInfo.VModelStatus": lambda: (
        word_of(model_mesh_pb2.VModelStatusInfo.VModelStatus, NUMBER) == "UNKNOWN_99"
    ),
    "modelmesh.v1.Rollout.State": lambda: word_of(admin_pb2.Rollout.State, NUMBER) == "UNKNOWN_99",
    "modelmesh.v1.Copy.State": "the command line shows what is not LOADED as loading",
    "modelmesh.v1.StatusUpdate.Part": "the controller takes what is not known as a part of a snapshot",
    "grpc.health.v1.HealthCheckResponse.ServingStatus": SENT_ONLY,
}
"""Each enumeration of the protos: how one that is not known is read, or why that cannot be."""


def enumerations(file: FileDescriptor) -> list[EnumDescriptor]:
    found = list(file.enum_types_by_name.values())
    messages = list(file.message_types_by_name.values())
    while messages:
        message = messages.pop()
        found += message.enum_types
        messages += message.nested_types
    return found


def test_every_enumeration_of_the_protos_has_a_meaning_for_what_is_not_known() -> None:
    modules = (admin_pb2, grpc_health_pb2, model_mesh_pb2, model_runtime_pb2, open_inference_pb2, peer_pb2)
    there = {kind.full_name for module in modules for kind in enumerations(module.DESCRIPTOR)}
    assert there == set(PROTOS)
    for name, read in PROTOS.items():
        assert not callable(read) or read(), name
