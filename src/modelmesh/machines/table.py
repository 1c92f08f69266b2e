"""Runs one step of a state machine's table."""

import enum
from collections.abc import Mapping
from typing import Generic, TypeVar

State = TypeVar("State", bound=enum.Enum)
Input = TypeVar("Input", bound=enum.Enum)
Effect = TypeVar("Effect", bound=enum.Enum)


class UnexpectedInputError(Exception):
    """`(state, input)` has no row: a bug in the driver. The state is unchanged."""

    def __init__(self, state: enum.Enum, given: enum.Enum) -> None:
        super().__init__(f"no transition for {given.name} in state {state.name}")
        self.state = state
        self.given = given


class Machine(Generic[State, Input, Effect]):
    """A state and the table it follows."""

    __slots__ = ("_table", "state")

    def __init__(self, table: Mapping[tuple[State, Input], tuple[State, tuple[Effect, ...]]], initial: State) -> None:
        self._table = table
        self.state = initial

    def accepts(self, given: Input) -> bool:
        """Whether the table has a row for `given` now."""
        return (self.state, given) in self._table

    def step(self, given: Input) -> tuple[Effect, ...]:
        """Move to the next state and return what must be done, in order.

        Raises:
            UnexpectedInputError: There is no row.
        """
        row = self._table.get((self.state, given))
        if row is None:
            raise UnexpectedInputError(self.state, given)
        self.state = row[0]
        return row[1]
