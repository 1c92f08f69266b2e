"""Which instances may hold models of a type, and which are preferred.

Called by `modelmesh.policy.placement`. Source: the INTENT of `spec/cluster-state.md` 9.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelmesh.values.view import InstanceView

DEFAULT = "_default"
"""The entry for every type that has none of its own."""


@dataclass(frozen=True, slots=True)
class TypeConstraint:
    """Labels an instance must all have, and labels of which it should have any."""

    required: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TypeConstraints:
    """Constraints by model type; types without one may go anywhere."""

    by_type: Mapping[str, TypeConstraint] = field(default_factory=dict)

    def of(self, model_type: str) -> TypeConstraint:
        """What holds for a type."""
        return self.by_type.get(model_type) or self.by_type.get(DEFAULT) or TypeConstraint()

    def missing(self, model_type: str, labels: Sequence[str]) -> tuple[str, ...]:
        """Labels an instance lacks to hold models of the type; empty: it may."""
        return tuple(label for label in self.of(model_type).required if label not in labels)

    def allowed(self, model_type: str, instances: Sequence[InstanceView]) -> list[InstanceView]:
        """The instances that may hold models of the type."""
        if not self.by_type:
            return list(instances)
        return [entry for entry in instances if not self.missing(model_type, entry.record.labels)]

    def preferred(self, model_type: str, allowed: Sequence[InstanceView]) -> list[InstanceView]:
        """The better ones of those allowed; empty: all are alike.

        Where nothing is configured, those that few other types can use are left for what needs them least:
        an instance on which many types are prohibited is of little use to others.
        """
        if not self.by_type:
            return []
        wanted = self.of(model_type).preferred
        chosen = [entry for entry in allowed if any(label in entry.record.labels for label in wanted)]
        if chosen:
            return chosen if len(chosen) < len(allowed) else []
        scores = [self._score(entry) for entry in allowed]
        if len(set(scores)) < 2:
            return []
        best = max(scores)
        return [entry for entry, score in zip(allowed, scores, strict=True) if score == best]

    def _score(self, entry: InstanceView) -> int:
        labels = entry.record.labels
        prohibited = sum(any(label not in labels for label in rule.required) for rule in self.by_type.values())
        explicit = sum(any(label in labels for label in rule.preferred) for rule in self.by_type.values())
        return 4 * prohibited - explicit
