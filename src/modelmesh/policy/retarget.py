"""How setVModel changes the record of a vmodel.

Called by `modelmesh.management.vmodels` on freshly read facts; a write that loses a race is decided
again. Source: the INTENT of `spec/cluster-state.md` 10.3, statuses and texts included.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.status import Status


@dataclass(frozen=True, slots=True)
class Retarget:
    """A setVModel call. Empty text: not given."""

    vmodel: VModelId
    target: ModelId
    update_only: bool = False
    force: bool = False
    expected: str = ""
    owner: str = ""


class RetargetReason(enum.Enum):
    """What happens to the record."""

    CREATED = "created"
    UNCHANGED = "unchanged"
    RETARGETED = "retargeted"
    SWITCHED = "switched"


@dataclass(frozen=True, slots=True)
class RetargetRefused:
    """The caller gets this status."""

    status: Status
    message: str


@dataclass(frozen=True, slots=True)
class Retargeted:
    """The new record."""

    record: VModelRecord
    reason: RetargetReason


def retarget(
    call: Retarget, existing: VModelRecord | None, *, may_switch: bool, default_owner: str = ""
) -> Retargeted | RetargetRefused:
    """Decide what the record becomes.

    Args:
        call: What is asked.
        existing: The present record.
        may_switch: The target is as ready as the active model, so no transition is needed.
        default_owner: Owner of a new vmodel whose caller names none.
    """
    vmodel = call.vmodel
    if existing is None:
        if call.expected and call.expected != call.target:
            return RetargetRefused(Status.FAILED_PRECONDITION, f"vmodel {vmodel} not found")
        if call.update_only:
            return RetargetRefused(Status.NOT_FOUND, f"vmodel {vmodel} not found")
        created = VModelRecord(active=call.target, target=call.target, owner=call.owner or default_owner)
        return Retargeted(created, RetargetReason.CREATED)
    if call.owner and call.owner != existing.owner:
        message = f'vmodel {vmodel} already exists with different owner "{existing.owner}"'
        return RetargetRefused(Status.ALREADY_EXISTS, message)
    if call.expected and existing.target not in {call.expected, call.target}:
        message = f"Existing target model {existing.target} does not match expected {call.expected}"
        return RetargetRefused(Status.FAILED_PRECONDITION, message)
    if existing.target == call.target and (existing.active == call.target or not call.force):
        return Retargeted(existing, RetargetReason.UNCHANGED)
    if existing.active == call.target or call.force or may_switch:
        return Retargeted(existing.moved(call.target), RetargetReason.SWITCHED)
    return Retargeted(replace(existing, target=call.target, failed=False), RetargetReason.RETARGETED)


def reference_changes(before: VModelRecord | None, after: VModelRecord | None) -> Mapping[ModelId, int]:
    """How many references each model gains or loses when the record changes from `before` to `after`.

    A model counts once per vmodel that names it, whichever way it came there.
    """
    old = before.models if before is not None else ()
    new = after.models if after is not None else ()
    gained = {model: 1 for model in new if model not in old}
    lost = {model: -1 for model in old if model not in new}
    return gained | lost
