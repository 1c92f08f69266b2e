"""How SetFallback changes the record of a vmodel: which model answers while the wanted one is cold or fails.

Called by `modelmesh.management.labels` on freshly read facts; a write that loses a race is decided again.
"""

import enum
from dataclasses import replace

from modelmesh.policy.labels import VModelRefused
from modelmesh.values.ids import ModelId, VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.status import Status


class FallbackReason(enum.Enum):
    """Why a fallback answers."""

    COLD = "cold"
    FAILED = "failed"


def refallback(
    vmodel: VModelId, existing: VModelRecord | None, fallback: ModelId | None, *, owner: str = ""
) -> VModelRecord | VModelRefused:
    """Decide what the record becomes. `fallback` None: no model answers in the place of another."""
    if existing is None:
        return VModelRefused(Status.NOT_FOUND, f"vmodel {vmodel} not found")
    if owner and owner != existing.owner:
        return VModelRefused(Status.FAILED_PRECONDITION, f'vmodel {vmodel} has another owner, "{existing.owner}"')
    return replace(existing, fallback=fallback)
