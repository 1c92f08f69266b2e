"""What SetSplit makes of a record, rule by rule."""

from dataclasses import replace

import pytest

from modelmesh.policy.retarget import Retarget, Retargeted, reference_changes, retarget
from modelmesh.policy.split import MOST_MODELS, SplitRefused, resplit
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.status import Status
from modelmesh.values.stored import RecordError

A, B, C = ModelId("a"), ModelId("b"), ModelId("c")
V = VModelId("v")
SETTLED = VModelRecord(active=A, target=A, owner="me")
SPLIT = replace(SETTLED, split=((B, 10), (C, 20)))


def test_shares_replace_those_before() -> None:
    assert resplit(V, SETTLED, [(B, 10), (C, 90)]) == replace(SETTLED, split=((B, 10), (C, 90)))
    assert resplit(V, SPLIT, [(B, 50)], owner="me") == replace(SETTLED, split=((B, 50),))
    assert resplit(V, SPLIT, []) == SETTLED


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ([(A, 10)], "model a is the active model of vmodel v: it gets what the others leave"),
        ([(B, 10), (B, 20)], "model b is named 2 times"),
        ([(B, 0)], "the share of model b is 0 percent, 1 to 100 are possible"),
        ([(B, 101)], "the share of model b is 101 percent, 1 to 100 are possible"),
        ([(B, 60), (C, 41)], "the shares of vmodel v are 101 percent together, 100 are possible"),
        (
            [(ModelId(f"m{number}"), 1) for number in range(MOST_MODELS + 1)],
            "17 models shall share the calls of vmodel v, 16 may",
        ),
    ],
)
def test_shares_that_make_no_sense_are_refused(split: list[tuple[ModelId, int]], message: str) -> None:
    assert resplit(V, SETTLED, split) == SplitRefused(Status.INVALID_ARGUMENT, message)


def test_only_a_vmodel_that_is_there_and_ones_own_is_split() -> None:
    assert resplit(V, None, []) == SplitRefused(Status.NOT_FOUND, "vmodel v not found")
    message = 'vmodel v has another owner, "me"'
    assert resplit(V, SETTLED, [], owner="you") == SplitRefused(Status.FAILED_PRECONDITION, message)


def test_a_model_that_becomes_active_gives_its_share_up_and_the_others_keep_theirs() -> None:
    moved = retarget(Retarget(V, B, force=True), SPLIT, may_switch=False)
    assert isinstance(moved, Retargeted)
    assert moved.record == VModelRecord(active=B, target=B, owner="me", split=((C, 20),))
    moving = retarget(Retarget(V, B), SPLIT, may_switch=False)
    assert isinstance(moving, Retargeted)
    assert moving.record == replace(SPLIT, target=B)


def test_each_model_of_a_split_is_referred_to_once() -> None:
    assert reference_changes(SETTLED, SPLIT) == {B: 1, C: 1}
    assert reference_changes(SPLIT, replace(SPLIT, target=B)) == {}
    assert reference_changes(SPLIT, SPLIT.moved(B)) == {A: -1}
    assert reference_changes(SPLIT, None) == {A: -1, B: -1, C: -1}


def test_the_stored_form_keeps_the_order_and_is_the_old_one_without_a_split() -> None:
    assert VModelRecord.decode(SPLIT.encode()) == SPLIT
    assert b"split" not in SETTLED.encode()


@pytest.mark.parametrize(
    "split", ["[]", "3", '{"b":"x"}', '{"b":0}', '{"b":-1}', '{"b":true}', '{"b":60,"c":41}', '{"b":1.5}']
)
def test_a_split_that_cannot_be_is_no_record(split: str) -> None:
    stored = f'{{"amid":"a","tmid":"a","split":{split}}}'.encode()
    if split == "[]":
        assert VModelRecord.decode(stored).split == ()  # nothing, however it is written
    else:
        with pytest.raises(RecordError):
            VModelRecord.decode(stored)
