"""What is worth a Kubernetes Event: from the status before to the status now."""

from dataclasses import dataclass

from modelmesh.kubernetes.status.models import ModelStatus, State, Transition


@dataclass(frozen=True, slots=True)
class Notice:
    """An Event of a resource. `reason` is one word for programs."""

    warning: bool
    reason: str
    message: str


def model_events(old: ModelStatus, new: ModelStatus) -> tuple[Notice, ...]:
    """What happened between two statuses, in a useful order."""
    found = []
    if new.failure is not None and (old.failure is None or _differs(old, new)):
        failure = new.failure
        where = f" at {failure.location}" if failure.location else ""
        found.append(Notice(warning=True, reason=failure.reason.value, message=f"{failure.message}{where}"))
    if new.active is State.LOADED is not old.active:
        found.append(Notice(warning=False, reason="Loaded", message="a copy of the model is loaded"))
    if old.transition is not new.transition:
        match new.transition:
            case Transition.IN_PROGRESS:
                message = "the new model is being loaded; the old one serves until then"
                found.append(Notice(warning=False, reason="UpdateStarted", message=message))
            case Transition.BLOCKED:
                message = "the new model cannot be loaded; the old one continues to serve"
                found.append(Notice(warning=True, reason="UpdateBlocked", message=message))
            case Transition.UP_TO_DATE if old.transition in {Transition.IN_PROGRESS, Transition.BLOCKED}:
                found.append(Notice(warning=False, reason="Updated", message="all calls go to the new model"))
            case _:
                pass
    return tuple(found)


def _differs(old: ModelStatus, new: ModelStatus) -> bool:
    assert old.failure is not None
    assert new.failure is not None
    return (old.failure.reason, old.failure.message) != (new.failure.reason, new.failure.message)
