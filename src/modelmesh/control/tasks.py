"""Background work whose failures are seen and whose order is the order of its start."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any


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

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` beside us."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        if self._closed:
            task.cancel()
        number = next(self._numbers)
        self._tasks[number] = task

        def done(ended: asyncio.Task[None]) -> None:
            self._tasks.pop(number, None)
            if not ended.cancelled() and (error := ended.exception()) is not None:
                self._failed(name, error)

        task.add_done_callback(done)
        return task

    async def close(self) -> None:
        """Cancel everything and wait until it has ended."""
        self._closed = True
        while self._tasks:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)
