"""The interface of everything that the watch keeps equal to a part of the store.

Changes come one batch after the other, in the store's order. When the watch has fallen behind, some are lost;
then everything is replaced by a complete listing, and what the listing does not have is removed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelmesh.control.view.keys import Keys
from modelmesh.control.view.state import Changed, ClusterState
from modelmesh.ports import Change, KeyValue
from modelmesh.values.ids import Revision


@dataclass(frozen=True, slots=True)
class Relisting:
    """What a listing found.

    Attributes:
        items: Every key of the ranges that are listed, as of `revision`.
        again: The keys that were remembered, read after that; None: there is no such key.
        replaced: It is another store than before, so a missing key proves little.
    """

    items: tuple[KeyValue, ...]
    again: Mapping[str, KeyValue | None]
    revision: Revision
    replaced: bool = False


class Fed(Protocol):
    """Kept equal to a part of the store. Nothing here waits."""

    def ranges(self) -> tuple[str, ...]:
        """Prefixes whose keys are mirrored, all of them: a listing reads them whole."""
        ...

    def remembered(self) -> Sequence[str]:
        """Keys of other ranges of which something is remembered: a listing reads them again."""
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Take in whole revisions of changes, of any keys."""
        ...

    def replace(self, listing: Relisting) -> None:
        """Replace the content by the listing."""
        ...

    def settle(self) -> None:
        """Everything that is fed has taken the batch or the listing: act on it."""
        ...


class ViewFeed:
    """Feeds the view.

    Args:
        viewed: Called after each batch and each listing with what changed.
        unreadable: Called with the text of each record that cannot be read.
    """

    def __init__(
        self, *, state: ClusterState, keys: Keys, viewed: Callable[[Changed], None], unreadable: Callable[[str], None]
    ) -> None:
        self._state = state
        self._ranges = (keys.members, keys.copies, keys.failures)
        self._viewed = viewed
        self._unreadable = unreadable
        self._changed = Changed()

    def ranges(self) -> tuple[str, ...]:
        """All that the view is made of."""
        return self._ranges

    def remembered(self) -> Sequence[str]:
        """Nothing: what the view knows of records is in the copies, too."""
        return ()

    def apply(self, changes: Sequence[Change]) -> None:
        """See `Fed`."""
        self._changed = self._state.apply(changes)

    def replace(self, listing: Relisting) -> None:
        """See `Fed`."""
        mirrored = [item for item in listing.items if item.key.startswith(self._ranges)]
        self._changed = self._state.load(mirrored, listing.revision, replaced=listing.replaced)

    def settle(self) -> None:
        """See `Fed`."""
        changed, self._changed = self._changed, Changed()
        for text in changed.unreadable:
            self._unreadable(text)
        self._viewed(changed)
