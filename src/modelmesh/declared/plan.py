"""What must change in a mesh so that it is as declared."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelmesh.declared.problems import Problem
from modelmesh.declared.resources import Wanted

OWNERS = ("isvc", "ksp")
"""Whose vmodels come from manifests."""


class Step(enum.Enum):
    """What to do with one vmodel."""

    CREATE = "create"
    MOVE = "move"
    KEEP = "keep"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Standing:
    """A vmodel as it is in the mesh."""

    active: str
    target: str
    owner: str


@dataclass(frozen=True, slots=True)
class Change:
    """One vmodel and its step. `wanted` is None for DELETE; `standing` is None for CREATE."""

    step: Step
    name: str
    wanted: Wanted | None
    standing: Standing | None

    @property
    def owner(self) -> str:
        """Under whose name it is done."""
        if self.wanted is not None:
            return self.wanted.owner
        assert self.standing is not None
        return self.standing.owner


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes in the order of their names, and what prevents it of some."""

    changes: tuple[Change, ...]
    problems: tuple[Problem, ...]

    @property
    def steps(self) -> Mapping[Step, int]:
        """How many changes of each kind."""
        return {step: sum(change.step is step for change in self.changes) for step in Step}


def plan(wanted: Iterable[Wanted], standing: Mapping[str, Standing], *, prune: bool = False) -> Plan:
    """Compare what is wanted with what is there.

    Args:
        wanted: Of all namespaces: a mesh has none, so a name in two of them is a problem.
        standing: The mesh's vmodels by name.
        prune: Whether vmodels that came from manifests, and are in none any more, are deleted. Those of other owners
            never are. Without anything wanted nothing is deleted: an empty folder is more often an error than an intention.
    """
    changes: dict[str, Change] = {}
    problems = []
    named = set()
    for one in wanted:
        if one.name in named:
            first = changes[one.name].wanted if one.name in changes else None
            where = f", at {first.source}" if first is not None else ""
            problems.append(_problem(one, f"is in two namespaces{where}; a mesh has one for all"))
            continue
        named.add(one.name)
        there = standing.get(one.name)
        if there is not None and there.owner != one.owner:
            owner = f"of owner {there.owner}" if there.owner else "that was set by hand"
            problems.append(
                _problem(one, f"is the name of a vmodel {owner} already; delete that one or choose another name")
            )
            continue
        changes[one.name] = Change(_step(one, there), one.name, one, there)
    if prune and not named:
        problems.append(Problem("", "", "", "nothing is declared, so nothing is pruned", fatal=False))
    elif prune:
        for name, there in standing.items():
            if name not in named and there.owner in OWNERS:
                changes[name] = Change(Step.DELETE, name, None, there)
    return Plan(tuple(changes[name] for name in sorted(changes)), tuple(problems))


def _step(one: Wanted, there: Standing | None) -> Step:
    if there is None:
        return Step.CREATE
    return Step.KEEP if there.target == one.model_id else Step.MOVE


def _problem(one: Wanted, message: str) -> Problem:
    return Problem(one.source, one.resource, "metadata.name", message)
