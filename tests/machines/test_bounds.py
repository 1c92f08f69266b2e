"""Nothing from outside is further in than its decoder with a value that does not fit."""

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from modelmesh._proto import peer_pb2 as pb
from modelmesh.adapters.peers.grpc_peers import model_history, peer_answer
from modelmesh.ports import RuntimeLoaded, RuntimeState, RuntimeStatus
from modelmesh.values import bounds
from modelmesh.values.memory import Memory
from modelmesh.values.records import CopyRecord, FailureRecord, HotCopy, MemberRecord, ModelRecord, VModelRecord
from modelmesh.values.stored import RecordError

EXTREMES: tuple[object, ...] = (
    -(10**400),
    -(2**63),
    -1,
    0,
    1,
    2**29,
    2**31,
    2**32,
    2**53 + 1,
    2**63,
    2**64,
    10**400,
    1.5,
    float("inf"),
    float("nan"),
    True,
    None,
    "",
    "text",
    "\ud800",
    [],
    [1, 2, 3],
    {},
    {"m": [-1, 2**40, True]},
    {"\ud800": 1},
    {"m": 101},
)

WHOLE: dict[type, dict[str, object]] = {
    ModelRecord: {
        "type": "t",
        "encKey": "k",
        "mPath": "p",
        "autoDel": True,
        "refs": 1,
        "lu": 1,
        "lul": 1,
        "minCopies": 1,
        "maxCopies": 1,
        "pin": True,
        "unused": True,
        "tenant": "t",
        "instanceIds": {"i": 1},
    },
    VModelRecord: {
        "o": "o",
        "amid": "a",
        "tmid": "t",
        "failed": True,
        "split": {"m": 5},
        "labels": {"l": "m"},
        "keep": 2,
        "kept": ["k"],
        "fallback": "f",
        "shadow": {"model": "s", "percent": 5, "compares": True},
        "rollout": {
            "model": "r",
            "steps": [5],
            "calls": 1,
            "ms": 1,
            "errors": 1,
            "slower": 1,
            "since": 1,
            "state": "running",
        },
    },
    CopyRecord: {"state": "loaded", "since": 1, "load": 1, "size": 1, "record": 1, "tenant": "t"},
    FailureRecord: {"kind": "bad_model", "msg": "m", "count": 1, "since": 1, "until": 1, "record": 1},
    MemberRecord: {
        "addr": "a:1",
        "tls": "n",
        "start": 1,
        "cap": 1,
        "used": 1,
        "reserve": 1,
        "pinned": 1,
        "unit": 1,
        "count": 1,
        "oldest": 1,
        "slots": 1,
        "loads": 1,
        "backlog": 1,
        "loadMs": 1,
        "worth": 1,
        "atOnce": 1,
        "busy": 1,
        "labels": ["l"],
        "zone": "z",
        "loc": "l",
        "vers": "v",
        "drain": True,
        "down": True,
        "hot": {"m": [1, 1, 1]},
    },
}
"""Each record with each of its fields."""

MOST = max(bounds.BYTES.most, bounds.LOAD_ID.most)


def decoders() -> list[tuple[Callable[[bytes], Any], str, object]]:
    return [
        (kind.decode, name, extreme)  # type: ignore[attr-defined]
        for kind, whole in WHOLE.items()
        for name in whole
        for extreme in EXTREMES
    ]


def numbers_and_words(value: object) -> list[object]:
    """Everything in a value, however deep."""
    if is_dataclass(value) and not isinstance(value, type):
        return [part for field in fields(value) for part in numbers_and_words(getattr(value, field.name))]
    if isinstance(value, list | tuple | set | frozenset):
        return [part for element in value for part in numbers_and_words(element)]
    if isinstance(value, dict):
        return [part for pair in value.items() for part in numbers_and_words(list(pair))]
    return [value]


def fits(value: object) -> None:
    for part in numbers_and_words(value):
        if isinstance(part, int):
            assert 0 <= part <= MOST, part
        if isinstance(part, str):
            part.encode()


def known(record: Any) -> list[object]:
    return [getattr(record, field.name) for field in fields(record) if field.name != "extras"]


@pytest.mark.parametrize(("kind", "whole"), WHOLE.items())
def test_each_field_of_each_record_is_tried(kind: Any, whole: dict[str, object]) -> None:
    """A field that `WHOLE` does not name has its default, which is false, and is not written."""
    record = kind.decode(json.dumps(whole).encode())
    assert json.loads(record.encode()).keys() == whole.keys()
    assert all(getattr(record, field.name) for field in fields(record) if field.name not in {"extras", "runtime_ready"})


def test_every_field_of_every_record_at_its_extremes() -> None:
    for decode, name, extreme in decoders():
        whole = dict(next(fields for kind, fields in WHOLE.items() if kind.decode == decode))  # type: ignore[attr-defined]
        whole[name] = extreme
        try:
            record = decode(json.dumps(whole).encode())
        except RecordError:
            continue
        fits(record)
        assert known(decode(record.encode())) == known(record), (name, extreme)


def test_what_is_a_measure_is_moved_into_its_range_and_what_is_an_identity_is_refused_by_name() -> None:
    member = MemberRecord.decode(b'{"addr":"a","cap":-5,"used":%d,"hot":{"m":[-1,99999999999,0]}}' % 2**80)
    assert (member.capacity, member.used) == (Memory(0), Memory(bounds.BYTES.most))
    assert member.hot == (HotCopy(member.hot[0].model, 0, bounds.COUNT.most, 0),)
    for field in ("load", "record"):
        with pytest.raises(RecordError, match=f"{field} is -1"):
            CopyRecord.decode(b'{"state":"loaded","%b":-1}' % field.encode())


@pytest.mark.parametrize("said", [2**29, 2**31 - 1, 2**32 - 1])
def test_a_runtime_without_a_limit_says_so_by_a_great_number(said: int) -> None:
    assert RuntimeLoaded.decoded(size_bytes=2**64 - 1, max_concurrency=said) == RuntimeLoaded(
        Memory(bounds.BYTES.most), 0
    )


def test_every_parameter_of_a_runtime_at_its_extremes() -> None:
    for value in (0, 1, 2**29, 2**32 - 1, 2**64 - 1):
        status = RuntimeStatus.decoded(
            RuntimeState.READY,
            capacity_bytes=value,
            default_size_bytes=value,
            loading_concurrency=value,
            load_timeout_ms=value,
        )
        fits(status)
        assert status.load_timeout_ms <= bounds.DURATION_MS.most
        assert status.loading_concurrency <= bounds.SLOTS.most


def test_every_number_of_a_peer_at_its_extremes() -> None:
    most = 2**64 - 1
    for state in (0, 1, 2, 3, 4, 99):
        fits(peer_answer(pb.EnsureLoadedResponse(state=state, refusal="from-the-future", view=most)))  # type: ignore[arg-type]
    answer = pb.RecallResponse(refusal="x", evict_bytes=most)
    answer.events.add(time_ms=most, instance_id="i", model_id="m", kind="k")
    answer.victims.add(model_id="m", size_bytes=most, last_use_ms=most)
    fits(model_history(answer, asked=True))
