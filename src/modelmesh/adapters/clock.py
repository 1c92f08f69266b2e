"""The wall clock."""

import asyncio
import time


class SystemClock:
    """Implements `ports.Clock`."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds since an unknown point."""
        return time.monotonic_ns() // 1_000_000

    async def sleep(self, ms: int) -> None:
        """Sleep."""
        await asyncio.sleep(ms / 1000)
