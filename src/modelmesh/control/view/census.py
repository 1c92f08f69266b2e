"""How many models are registered.

Only the leader counts: it pages once through the registry, and adds and takes away what changes meanwhile and from
then on.
"""

from modelmesh.control.view.keys import Keys, RegistryKey
from modelmesh.ports import Change, ChangeKind, Clock, Store, StoreError
from modelmesh.values.ids import Revision

PAGE = 500
PAUSE_MS = 20
"""Between pages, so that counting a million models is no burst."""


class Census:
    """The count; `models` is None until it is known."""

    def __init__(self, *, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._changes: list[tuple[Revision, int]] | None = None
        self.models: int | None = None

    @property
    def counting(self) -> bool:
        """Whether a count is under way."""
        return self._changes is not None

    def changed(self, change: Change) -> None:
        """A record was put or deleted."""
        assert isinstance(self._keys.parse(change.item.key), RegistryKey)
        if change.kind is ChangeKind.DELETE:
            difference = -1
        elif change.item.create_revision == change.item.mod_revision:
            difference = 1
        else:
            return
        if self.models is not None:
            self.models += difference
        elif self._changes is not None:
            self._changes.append((change.item.mod_revision, difference))

    async def take(self) -> None:
        """Count again, all at one revision."""
        self.models = None
        self._changes = []
        try:
            page = await self._store.range(self._keys.registry, limit=PAGE)
            revision, count = page.revision, len(page.items)
            while page.more:
                await self._clock.sleep(PAUSE_MS)
                page = await self._store.range(
                    self._keys.registry, start_after=page.items[-1].key, limit=PAGE, revision=revision
                )
                count += len(page.items)
            self.models = count + sum(difference for at, difference in self._changes if at > revision)
        except StoreError:
            pass  # the caller tries again
        finally:
            self._changes = None

    def stop(self) -> None:
        """Another instance leads, or changes may have been missed."""
        self.models = None
