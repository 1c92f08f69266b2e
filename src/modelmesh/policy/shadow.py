"""How SetShadow changes the record of a vmodel: which model gets copies of its calls.

Called by `modelmesh.management.shadows` on freshly read facts; a write that loses a race is decided again.
"""

from dataclasses import replace

from modelmesh.policy.labels import VModelRefused
from modelmesh.values.ids import VModelId
from modelmesh.values.records import VModelRecord
from modelmesh.values.shadow import PERCENT, Shadow
from modelmesh.values.status import Status


def reshadow(
    vmodel: VModelId, existing: VModelRecord | None, shadow: Shadow | None, *, owner: str = ""
) -> VModelRecord | VModelRefused:
    """Decide what the record becomes. `shadow` None: no calls are copied."""
    if existing is None:
        return VModelRefused(Status.NOT_FOUND, f"vmodel {vmodel} not found")
    if owner and owner != existing.owner:
        return VModelRefused(Status.FAILED_PRECONDITION, f'vmodel {vmodel} has another owner, "{existing.owner}"')
    if shadow is None:
        return replace(existing, shadow=None)
    if PERCENT.clamp(shadow.percent) != shadow.percent:
        message = f"{shadow.percent} percent of the calls of vmodel {vmodel} shall be copied, 1 to 100 are possible"
        return VModelRefused(Status.INVALID_ARGUMENT, message)
    if shadow.model == existing.active:
        message = f"model {shadow.model} is the active model of vmodel {vmodel}: it answers the calls"
        return VModelRefused(Status.INVALID_ARGUMENT, message)
    return replace(existing, shadow=shadow)
