"""Classes of calls: which go first where calls wait for the same thing, and which are refused first."""

import enum


class Priority(enum.IntEnum):
    """The class of a call (`mm-priority`), the lowest first."""

    LOW = 0
    NORMAL = 1
    HIGH = 2

    @property
    def word(self) -> str:
        """As headers and documents have it."""
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> "Priority":
        """Raises ValueError that names the known classes."""
        for one in cls:
            if one.word == word:
                return one
        raise ValueError(f"{word!r} is no class of calls; it must be high, normal or low")
