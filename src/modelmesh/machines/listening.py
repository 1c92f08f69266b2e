"""Whether the runtime is only slow, or hangs. Driven by `modelmesh.control.copies.runtime_link`.

It is asked for a sign of life again and again. Who answers is not hung, however long its calls take. One question that is not
answered says little: our own process may have stood still. A runtime that loads a model may do nothing else meanwhile, which
simple ones do not; it gets more time.
"""

QUESTIONS = 2
"""Without an answer to so many in a row it stands still."""

QUESTIONS_IN_LOADS = 7
"""The same while loads are at work."""


class Listening:
    """Counts questions."""

    __slots__ = ("_unanswered",)

    def __init__(self) -> None:
        self._unanswered = 0

    @property
    def doubts(self) -> bool:
        """Whether the last question was not answered, so that the next one should not wait."""
        return self._unanswered > 0

    def heard(self) -> None:
        """There was an answer, or it is not a matter of answers."""
        self._unanswered = 0

    def unanswered(self, *, loads: int) -> bool:
        """A question was not answered. True: it stands still. `loads`: how many are at work there."""
        self._unanswered += 1
        return self._unanswered >= (QUESTIONS_IN_LOADS if loads else QUESTIONS)
