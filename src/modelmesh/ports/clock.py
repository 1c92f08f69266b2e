"""Time."""

from typing import Protocol


class Clock(Protocol):
    """Time. Two hosts' `now_ms` are never compared for correctness."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds that never go back; only differences mean anything."""
        ...

    async def sleep(self, ms: int) -> None:
        """Sleep; 0 yields once."""
        ...
