"""The slow steps of a copy as tasks, and what happens to the copy when one of them raises.

That is a bug. It costs that copy and nothing else: what it holds is released, and its waiters get an error.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from modelmesh.control.copies.entry import DropReason, Entry, LoadEnd, LoadRefused
from modelmesh.control.tasks import AGAIN_S, Tasks
from modelmesh.machines.model_copy import CopyInput, CopyState
from modelmesh.values.dataplane import Outcome
from modelmesh.values.ids import ModelId, Revision

Work = Callable[[Entry], Coroutine[Any, Any, None]]


class Drop(Protocol):
    """Drops a copy."""

    def __call__(self, model: ModelId, reason: DropReason, *, forced: bool = False, end: LoadEnd | None = None) -> None:
        """See `modelmesh.control.copies.steps`."""


class CopyTasks:
    """Starts the tasks, and ends what one that raised left open.

    Args:
        stale: Copies that no longer exist but whose keys may, with the revision of their record.
        step: Feeds the machine.
        drop: Drops a copy.
    """

    def __init__(
        self, *, tasks: Tasks, stale: dict[ModelId, Revision], step: Callable[[Entry, CopyInput], None], drop: Drop
    ) -> None:
        self._tasks = tasks
        self._stale = stale
        self._step = step
        self._drop = drop

    def claim(self, entry: Entry, work: Work) -> None:
        """Claim the load."""
        self._tasks.start(work(entry), f"claim {entry.model}", failed=lambda _: self._claim_raised(entry))

    def load(self, entry: Entry, work: Work) -> None:
        """Load it."""
        entry.loading = self._tasks.start(work(entry), f"load {entry.model}", failed=lambda _: self.give_up(entry))

    def measure(self, entry: Entry, work: Work) -> None:
        """Measure what is loaded."""
        self._tasks.start(work(entry), f"measure {entry.model}", failed=lambda _: self._unmeasured(entry))

    def remove(self, entry: Entry, work: Work, name: str) -> None:
        """Delete its key."""
        entry.removal = self._tasks.start(
            work(entry), f"{name} {entry.model}", failed=lambda _: self._removal_raised(entry)
        )

    def unload(self, entry: Entry, work: Work) -> None:
        """Unload it, which must come to its end."""

        def again() -> None:
            if entry.state is CopyState.UNLOADING:
                self.unload(entry, work)

        entry.unloading = self._tasks.start(
            work(entry),
            f"unload {entry.model}",
            failed=lambda _: asyncio.get_running_loop().call_later(AGAIN_S, again),
        )

    @contextmanager
    def guarded(self, model: ModelId) -> Iterator[None]:
        """Report an exception of the block and continue; its owner tries it again."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is about this copy alone
            self._tasks.report(f"route of {model}", error)

    def give_up(self, entry: Entry) -> None:
        """A step or its load raised: it leaves as copies leave, and its waiters get an error."""
        end = LoadRefused(Outcome.BUSY, f"model {entry.model} had an internal error here; see the log")
        if not entry.gone.is_set():
            self._drop(entry.model, DropReason.STEP_FAILED, forced=True, end=end)

    def _claim_raised(self, entry: Entry) -> None:
        """Perhaps it was written."""
        if entry.machine.accepts(CopyInput.CLAIM_REFUSED):
            self._stale[entry.model] = entry.registered.create_revision
            entry.end = LoadRefused(Outcome.BUSY, f"model {entry.model} could not be claimed here; see the log")
            self._step(entry, CopyInput.CLAIM_REFUSED)

    def _unmeasured(self, entry: Entry) -> None:
        """The predicted size is kept."""
        if entry.machine.accepts(CopyInput.SIZED):
            self._step(entry, CopyInput.SIZED)

    def _removal_raised(self, entry: Entry) -> None:
        """The key is deleted later, and no caller waits for that."""
        self._stale[entry.model] = entry.registered.create_revision
        if entry.machine.accepts(CopyInput.WITHDRAWN):
            self._step(entry, CopyInput.WITHDRAWN)
        elif entry.end is not None:
            entry.answer_waiters()
