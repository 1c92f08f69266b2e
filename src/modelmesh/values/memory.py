"""An amount of memory: what a model takes, what an instance has.

It has one dimension, the bytes that the runtime counts. Policies use only the methods below and never compare numbers,
so a second dimension (accelerator memory, say) is a second field here and at the borders, where amounts are decoded and
encoded: settings, answers of runtimes, store records, messages and metrics.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from modelmesh.values.sizes import format_size

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Memory:
    """An amount of memory. A difference may be negative. Amounts have no order: `fits` compares them.

    Attributes:
        bytes: For borders, and for `str`, sort keys and shares, which need one number.
    """

    bytes: int = 0

    def __bool__(self) -> bool:
        """Whether any dimension is above 0."""
        return self.bytes > 0

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(self.bytes + other.bytes)

    def __sub__(self, other: "Memory") -> "Memory":
        return Memory(self.bytes - other.bytes)

    def __mul__(self, times: int) -> "Memory":
        return Memory(self.bytes * times)

    def __floordiv__(self, parts: int) -> "Memory":
        return Memory(self.bytes // parts)

    def __str__(self) -> str:
        """For people: `1.5 GiB`."""
        return format_size(self.bytes)

    def fits(self, room: "Memory") -> bool:
        """Whether there is room for it in every dimension."""
        return self.bytes <= room.bytes

    def beyond(self, room: "Memory") -> "Memory":
        """What of it has no place in `room`: in each dimension the difference, never negative."""
        return Memory(max(0, self.bytes - room.bytes))

    def at_least(self, other: "Memory") -> "Memory":
        """The larger of the two in each dimension."""
        return self if self.bytes >= other.bytes else other

    def at_most(self, other: "Memory") -> "Memory":
        """The smaller of the two in each dimension."""
        return self if self.bytes <= other.bytes else other

    def parts_of(self, whole: "Memory", parts: int) -> int:
        """How much of `whole` it is, in `parts` of it (100: percent), in the scarcest dimension; 0 if `whole` is nothing."""
        return parts * self.bytes // whole.bytes if whole.bytes > 0 else 0

    def holds(self, size: "Memory") -> int:
        """How many copies of `size` have room in it."""
        return max(0, self.bytes // size.bytes)

    def priced(self, per_gib: int) -> int:
        """What it costs if a GiB costs `per_gib`, rounded down."""
        return self.bytes * per_gib // GIB

    def per_gib(self, cost: float) -> float:
        """What a GiB costs if this amount costs `cost`; 0 if it is nothing."""
        return cost * GIB / self.bytes if self.bytes > 0 else 0.0


NOTHING = Memory()
SMALLEST = Memory(1)
"""What a copy takes at least, so that one of unknown size counts."""


def total(amounts: Iterable[Memory]) -> Memory:
    """Their sum."""
    return sum(amounts, NOTHING)


def largest(amounts: Iterable[Memory]) -> Memory:
    """The largest of them in each dimension; nothing if there is none."""
    most = NOTHING
    for amount in amounts:
        most = most.at_least(amount)
    return most
