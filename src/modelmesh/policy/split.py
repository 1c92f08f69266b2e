"""How SetSplit changes the record of a vmodel: which other models get a part of its calls.

Called by `modelmesh.management.splits` on freshly read facts; a write that loses a race is decided again.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import WHOLE_PERCENT, VModelRecord
from modelmesh.values.status import Status

MOST_MODELS = 16
"""Models that may share the calls of a vmodel with the active one."""


@dataclass(frozen=True, slots=True)
class SplitRefused:
    """The caller gets this status."""

    status: Status
    message: str


def resplit(
    vmodel: VModelId, existing: VModelRecord | None, split: Sequence[tuple[ModelId, int]], *, owner: str = ""
) -> VModelRecord | SplitRefused:
    """Decide what the record becomes.

    Args:
        vmodel: Its id.
        existing: The present record.
        split: Models, and the percent of the calls that each shall get; the active model gets the rest.
        owner: Of the vmodel, if the caller names one.
    """
    if existing is None:
        return SplitRefused(Status.NOT_FOUND, f"vmodel {vmodel} not found")
    if owner and owner != existing.owner:
        return SplitRefused(Status.FAILED_PRECONDITION, f'vmodel {vmodel} has another owner, "{existing.owner}"')
    if existing.rollout is not None and existing.rollout.running:
        message = f"model {existing.rollout.model} is being rolled out for vmodel {vmodel}, which sets its shares; end that first"
        return SplitRefused(Status.FAILED_PRECONDITION, message)
    wrong = _wrong(vmodel, existing, split)
    return SplitRefused(Status.INVALID_ARGUMENT, wrong) if wrong else replace(existing, split=tuple(split))


def _wrong(vmodel: VModelId, existing: VModelRecord, split: Sequence[tuple[ModelId, int]]) -> str:
    """What is wrong with the shares; empty if nothing is."""
    if len(split) > MOST_MODELS:
        return f"{len(split)} models shall share the calls of vmodel {vmodel}, {MOST_MODELS} may"
    for model, count in Counter(model for model, _ in split).items():
        if count > 1:
            return f"model {model} is named {count} times"
        if model == existing.active:
            return f"model {model} is the active model of vmodel {vmodel}: it gets what the others leave"
    for model, percent in split:
        if not 0 < percent <= WHOLE_PERCENT:
            return f"the share of model {model} is {percent} percent, 1 to {WHOLE_PERCENT} are possible"
    whole = sum(percent for _, percent in split)
    if whole > WHOLE_PERCENT:
        return f"the shares of vmodel {vmodel} are {whole} percent together, {WHOLE_PERCENT} are possible"
    return ""
