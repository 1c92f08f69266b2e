"""Limits numbers and texts from outside when they are decoded: in stored records, answers of runtimes, messages of peers.

The writer may be broken, older, newer, or a person with an editor. A measure (a time, a size, a count) is moved into its
range: a member with an absurd number is still a member. An identity is refused with the field's name, because another
number would mean something else. After decoding every value is in its range, so no other code checks it again.
"""

from dataclasses import dataclass


class OutOfRangeError(ValueError):
    """A value that cannot be moved into its range; the message names the field."""


@dataclass(frozen=True, slots=True)
class Range:
    """Whole numbers from `least` to `most`, both included."""

    least: int
    most: int

    def clamp(self, value: int) -> int:
        """The number of the range that is nearest."""
        return min(max(self.least, value), self.most)

    def check(self, name: str, value: int) -> int:
        """The same number. Raises OutOfRangeError if it is not in the range."""
        if not self.least <= value <= self.most:
            raise OutOfRangeError(f"{name} is {_shown(value)}, not one of {self.least} to {self.most}")
        return value


TIME_MS = Range(0, 253_402_300_799_999)
"""Epoch milliseconds, until the end of year 9999: what `datetime` can show."""

DURATION_MS = Range(0, 86_400_000)
"""How long anything may take: a day."""

BYTES = Range(0, 1 << 60)
"""Sizes; sums of many stay below 2^63."""

TOTAL = Range(0, 1 << 60)
"""Counts that add up for as long as an instance runs; sums of many stay below 2^63."""

COUNT = Range(0, 2**31 - 1)

LOAD_ID = Range(0, 2**63 - 1)

REVISION = Range(0, 2**63 - 1)
"""What etcd counts with."""

SLOTS = Range(1, 1024)
"""Loads at a time at one runtime."""

CONCURRENCY = Range(0, 65_536)
"""Requests at a time at one copy; 0: no bound."""


def concurrency(reported: int) -> int:
    """The concurrency that a runtime reports; a number above the range means no bound (0)."""
    return reported if reported <= CONCURRENCY.most else 0


def text(name: str, value: str) -> str:
    """Text that can be sent on. Raises OutOfRangeError for half a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise OutOfRangeError(f"{name} is no text: {error.reason} at character {error.start}") from error
    return value


def _shown(value: int) -> str:
    """A number in as few characters as a message may have for it."""
    digits = str(value) if abs(value) < 1 << 128 else f"{value:#x}"
    return digits if len(digits) <= 40 else f"{digits[:20]}… ({len(digits)} digits)"
