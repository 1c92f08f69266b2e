"""Whether the runtime is only slow, or hangs. Driven by `modelmesh.control.copies.runtime_link`.

It is pinged at intervals. A runtime that answers does not hang, however long its calls take. One ping without an answer is no
proof: this process may have been stopped. A simple runtime answers nothing while it loads a model, so it gets more time
during loads.
"""

QUESTIONS = 2
"""After so many pings in a row without an answer it counts as hung."""

QUESTIONS_IN_LOADS = 7
"""The same while loads are at work."""


class Listening:
    """Counts pings without an answer."""

    __slots__ = ("_unanswered",)

    def __init__(self) -> None:
        self._unanswered = 0

    @property
    def doubts(self) -> bool:
        """Whether the last ping was not answered, so that the next one is sent at once."""
        return self._unanswered > 0

    def answered(self) -> None:
        """The runtime answered, or its connection changed."""
        self._unanswered = 0

    def unanswered(self, *, loads: int) -> bool:
        """A ping was not answered. Returns whether the runtime counts as hung. `loads`: how many run there."""
        self._unanswered += 1
        return self._unanswered >= (QUESTIONS_IN_LOADS if loads else QUESTIONS)
