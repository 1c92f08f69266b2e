"""Every machine's table: what it must allow, and that anything else is refused without a trace."""

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.machines import member, model_copy, runtime_link
from modelmesh.machines.model_copy import CopyEffect, CopyInput, CopyState, ModelCopyMachine
from modelmesh.machines.table import Machine, UnexpectedInputError

TABLES = [
    (model_copy.TRANSITIONS, CopyState.ABSENT),
    (runtime_link.TRANSITIONS, runtime_link.LinkState.STARTING),
    (member.TRANSITIONS, member.MemberState.JOINING),
]


@pytest.mark.parametrize(("table", "initial"), TABLES)
def test_every_state_can_be_reached(table, initial) -> None:
    reached = {initial}
    while True:
        new = {after for (before, _), (after, _) in table.items() if before in reached} - reached
        if not new:
            break
        reached |= new
    assert reached == set(type(initial))


@pytest.mark.parametrize(("table", "initial"), TABLES)
def test_every_input_and_effect_is_used(table, initial) -> None:
    given_inputs = {given for _, given in table}
    effects = {effect for _, (_, effects) in table.items() for effect in effects}
    assert given_inputs == set(type(next(iter(given_inputs))))
    assert effects == set(type(next(iter(effects))))
    assert isinstance(initial, enum.Enum)


@pytest.mark.parametrize(("table", "initial"), TABLES)
def test_an_input_without_a_row_is_refused_and_changes_nothing(table, initial) -> None:
    inputs = type(next(iter(table))[1])
    for state in type(initial):
        for given_input in inputs:
            machine = Machine(table, state)
            if (state, given_input) in table:
                assert machine.accepts(given_input)
            else:
                assert not machine.accepts(given_input)
                with pytest.raises(UnexpectedInputError):
                    machine.step(given_input)
                assert machine.state is state


def test_a_copy_can_be_dropped_in_every_state_but_absent() -> None:
    dropped = {state for state, given_input in model_copy.TRANSITIONS if given_input is CopyInput.DROPPED}
    assert dropped == set(CopyState) - {CopyState.ABSENT}


def test_a_copy_whose_record_is_gone_closes_though_its_key_still_stands() -> None:
    machine = Machine(model_copy.TRANSITIONS, CopyState.READY)
    assert CopyEffect.CLOSE not in machine.step(CopyInput.DROPPED)
    assert machine.step(CopyInput.VOIDED) == (CopyEffect.CLOSE, CopyEffect.AWAIT_IDLE)
    assert machine.state is CopyState.LEAVING


@given(st.lists(st.sampled_from(CopyInput), max_size=40))
def test_whatever_happens_a_copys_memory_and_key_are_given_back_exactly_once(inputs) -> None:  # noqa: C901 - a row per effect
    """Along every path: bytes are reserved at most once before they are freed, and absent means nothing is left."""
    machine = ModelCopyMachine()
    reserved = keyed = opened = False
    for given_input in inputs:
        if not machine.accepts(given_input):
            continue
        for effect in machine.step(given_input):
            match effect:
                case CopyEffect.ENQUEUE:
                    assert not keyed
                    keyed = True
                case CopyEffect.RESERVE:
                    assert not reserved
                    reserved = True
                case CopyEffect.OPEN:
                    opened = True
                case CopyEffect.CLOSE:
                    assert opened
                    opened = False
                case CopyEffect.FREE:
                    assert reserved
                    reserved = False
                case CopyEffect.REMOVE_KEY | CopyEffect.WITHDRAW | CopyEffect.RECORD_FAILURE:
                    keyed = False
                case CopyEffect.STAY:
                    keyed = True
                case _:
                    pass
        if machine.state is CopyState.ABSENT:
            assert (reserved, keyed, opened) == (False, False, False)
