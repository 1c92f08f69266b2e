"""Why an instance cannot load anything now, and whether it soon can again."""

from modelmesh.values.view import InstanceView


def may_be_back(entry: InstanceView) -> bool:
    """Whether an instance only cannot load at the moment."""
    return not entry.available and not entry.record.draining


def why_not(entry: InstanceView) -> str:
    """Why nothing can be loaded at an instance now."""
    if entry.record.draining:
        return "is draining"
    return "is not reachable" if not entry.reachable else "has no connection to its runtime"
