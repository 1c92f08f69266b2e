"""What instances count of the calls of one vmodel."""

from dataclasses import dataclass

from modelmesh.values.shadow import ShadowCounts


@dataclass(frozen=True, slots=True)
class VModelCounts:
    """At one instance, or at several together. `shadows`: each model once, ordered by id."""

    shadows: tuple[ShadowCounts, ...] = ()
