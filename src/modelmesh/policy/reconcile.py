"""Whether the store's entries for this instance's copies match the copies that it holds. Called by `modelmesh.control.duties.reconcile`.

Every change of a copy writes its own key, so this finds something only where the result of a write is unknown, or where another writer
else wrote. Source: the INTENT of `spec/cluster-state.md` 5.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from modelmesh.values.ids import LoadId, ModelId


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What to do. `orphans`: keys without a copy, to be deleted; `missing`: copies without a key, to be listed again."""

    orphans: tuple[ModelId, ...]
    missing: tuple[ModelId, ...]


def reconcile(
    keys: Mapping[ModelId, LoadId], copies: Mapping[ModelId, LoadId], changing: Mapping[ModelId, LoadId]
) -> Reconciliation:
    """Compare.

    Args:
        keys: Keys of this instance in the view.
        copies: Copies here that should have a key and are not new.
        changing: Copies here that are being loaded or dropped: their keys are already being written.
    """
    return Reconciliation(
        orphans=tuple(model for model, load in keys.items() if model not in changing and copies.get(model) != load),
        missing=tuple(model for model in copies if model not in keys and model not in changing),
    )
