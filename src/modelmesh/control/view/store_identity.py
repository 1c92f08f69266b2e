"""Whether this is still the same store.

A store that was emptied or replaced keeps answering, and an absence in it means nothing. `alive` holds
a random id, put once; its value and create revision are the identity of the store.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from modelmesh.ports import Compare, Get, KeyValue, Operation, Put, Store, StoreError, Transaction, TransactionResult

DOUBT_MS = 30_000
"""How long absences are answered UNAVAILABLE after another store was met: time for every instance to put
back what it holds."""


class StoreReplacedError(StoreError):
    """The store has another identity, or none: what is absent in it proves nothing."""


@dataclass(frozen=True, slots=True)
class StoreMark:
    """The store as we met it."""

    value: bytes
    create_revision: int


class StoreIdentity:
    """The known identity, and reads that hold only under it."""

    def __init__(self, key: str, rng: Random) -> None:
        """`rng` draws the id that is put where there is none: a new one each time.

        An emptied store counts its revisions from the beginning again, so an id put twice could look the
        same to those who knew the first.
        """
        self.key = key
        self._rng = rng
        self.known: StoreMark | None = None
        self.doubted_until_ms = 0
        self.another: Callable[[], None] = lambda: None
        """Called when a read finds another store than the known one."""

    def compare(self) -> tuple[Compare, ...]:
        """The condition that a transaction sees the store we know."""
        if self.known is None:
            return ()
        return (Compare(self.key, "create", "==", self.known.create_revision),)

    async def meet(self, store: Store) -> bool:
        """Read the identity, putting ours if there is none; returns whether the store is another one.

        The first meeting is no replacement.
        """
        value = f"{self._rng.getrandbits(64):016x}".encode()
        result = await store.transact(
            Transaction(
                compares=(Compare(self.key, "create", "==", 0),),
                then=(Put(self.key, value),),
                otherwise=(Get(self.key),),
            )
        )
        if result.succeeded:
            met = StoreMark(value, result.revision)
        else:
            found = result.answers[0]
            assert isinstance(found, tuple)
            met = StoreMark(found[0].value, found[0].create_revision)
        replaced = self.known is not None and self.known != met
        self.known = met
        return replaced

    async def read(self, store: Store, *operations: Operation) -> TransactionResult:
        """Run reads whose absences count.

        Raises:
            StoreReplacedError: The store is not the one we know.
        """
        result = await store.transact(Transaction(compares=self.compare(), then=operations))
        if not result.succeeded:
            raise self._replaced()
        return result

    def check(self, alive: tuple[KeyValue, ...]) -> None:
        """Look at a read of the identity's key: is what was absent beside it really absent?

        Raises:
            StoreReplacedError: The store is not the one we know.
        """
        if self.known is not None and (not alive or alive[0].create_revision != self.known.create_revision):
            raise self._replaced()

    def _replaced(self) -> StoreReplacedError:
        self.another()
        return StoreReplacedError("the store is not the one this instance knows; it is being listed again")
