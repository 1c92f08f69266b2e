"""How SetLabels changes the record of a vmodel: which of its versions have names, and how many earlier ones are kept.

Called by `modelmesh.management.labels` on freshly read facts; a write that loses a race is decided again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.status import Status

MOST_LABELS = 16
MOST_KEPT = 16
"""Of one vmodel."""

STABLE = "stable"
LATEST = "latest"
"""Every vmodel has these: its active model, and the one that it was moved to last."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class VModelRefused:
    """The caller gets this status."""

    status: Status
    message: str


def relabel(
    vmodel: VModelId,
    existing: VModelRecord | None,
    labels: Mapping[str, ModelId | None],
    *,
    keep: int | None = None,
    owner: str = "",
) -> VModelRecord | VModelRefused:
    """Decide what the record becomes.

    Args:
        vmodel: Its id.
        existing: The record as it stands.
        labels: Labels that change, each with its model; None: the label goes. Others stay.
        keep: How many earlier active models stay callable; None: as many as before.
        owner: Of the vmodel, if the caller names one.
    """
    if existing is None:
        return VModelRefused(Status.NOT_FOUND, f"vmodel {vmodel} not found")
    if owner and owner != existing.owner:
        return VModelRefused(Status.FAILED_PRECONDITION, f'vmodel {vmodel} has another owner, "{existing.owner}"')
    changed = dict(existing.labels)
    for label, model in labels.items():
        if wrong := _wrong(label):
            return VModelRefused(Status.INVALID_ARGUMENT, wrong)
        if model is None:
            changed.pop(label, None)
        else:
            changed[label] = model
    if len(changed) > MOST_LABELS:
        message = f"vmodel {vmodel} would have {len(changed)} labels, {MOST_LABELS} are possible"
        return VModelRefused(Status.INVALID_ARGUMENT, message)
    keep = existing.keep if keep is None else keep
    if keep > MOST_KEPT:
        message = f"{keep} earlier models shall be kept for vmodel {vmodel}, {MOST_KEPT} are possible"
        return VModelRefused(Status.INVALID_ARGUMENT, message)
    return replace(existing, labels=tuple(sorted(changed.items())), keep=keep, kept=existing.kept[:keep])


def _wrong(label: str) -> str:
    """What is wrong with a label; empty if nothing is."""
    if label in {STABLE, LATEST}:
        return f"the label {label} is the mesh's: every vmodel has it"
    if not _LABEL.fullmatch(label):
        return f"{label[:80]!r} is not a label: up to 63 letters, digits, dots, dashes and underscores, no dash, dot or underscore first"
    return ""
