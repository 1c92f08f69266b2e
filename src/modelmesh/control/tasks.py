"""Background tasks: failures are reported, and tasks run in the order of their start."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

AGAIN_S = 1.0
"""How long after it raised work is begun again that must come to its end."""


class Tasks:
    """Keeps the tasks of one owner, in a dict so that iteration has an order.

    A task that ends by an unexpected exception reports it to `failed`; nothing is swallowed.
    """

    def __init__(self, failed: Callable[[str, BaseException], None]) -> None:
        self._failed = failed
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._numbers = count()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def start(
        self,
        work: Coroutine[Any, Any, None],
        name: str,
        *,
        failed: Callable[[BaseException], object] | None = None,
    ) -> asyncio.Task[None]:
        """Run `work` in the background; `failed` is called last if it ended by an unexpected exception."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        if self._closed:
            task.cancel()
        number = next(self._numbers)
        self._tasks[number] = task

        def done(ended: asyncio.Task[None]) -> None:
            self._tasks.pop(number, None)
            if ended.cancelled() or (error := ended.exception()) is None:
                return
            self.report(name, error)
            if failed is not None and not self._closed:
                try:
                    failed(error)
                except Exception as mistake:  # noqa: BLE001 - reported like the first
                    self.report(f"after the failure of: {name}", mistake)

        task.add_done_callback(done)
        return task

    def persist(self, make: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        """Run work that must come to its end: it is made and begun again, a second after it raised."""

        def again() -> None:
            if not self._closed:
                self.persist(make, name)

        self.start(make(), name, failed=lambda _: asyncio.get_running_loop().call_later(AGAIN_S, again))

    def report(self, name: str, error: BaseException) -> None:
        """Report an unexpected exception. What the receivers raise is reported in turn."""
        try:
            self._failed(name, error)
        except Exception as mistake:  # noqa: BLE001 - there is no other receiver
            asyncio.get_running_loop().call_exception_handler({"message": name, "exception": mistake})

    async def close(self) -> None:
        """Cancel everything and wait until it has ended."""
        self._closed = True
        while self._tasks:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)
