"""Keeps the keys of this instance's copies in the store: listed, withdrawn, failed."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from modelmesh.control.copies.entry import OPEN, DropReason, Entry, LoadFailed
from modelmesh.control.copies.transactions import CopyWriter
from modelmesh.control.journal import Journal
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.records import Registered
from modelmesh.machines.model_copy import CopyInput, CopyState
from modelmesh.policy.failure import MOST_LOSSES, believe, lost
from modelmesh.ports import Clock, LeaseNotFoundError, StoreError
from modelmesh.values.ids import InstanceId, ModelId, Revision
from modelmesh.values.records import FailureKind, FailureRecord, ModelRecord
from modelmesh.values.view import ModelView

RETRY_MS = 500
SAME_LOSS_MS = 500
"""What is lost within so short a time was lost with the same runtime."""

SPARE_COPIES = 2
"""A record has the time of an unload if more than so many copies are left, as in the old system."""


class CopyListing:
    """The effects of a copy's machine that write its key.

    Args:
        entries: The copies here; read only.
        view: A model as the store has it; with its record, only what belongs to that.
        others: Ready copies elsewhere.
        step: Feeds the machine.
        drop: Drops a copy.
    """

    def __init__(
        self,
        *,
        own: InstanceId,
        entries: Mapping[ModelId, Entry],
        writer: CopyWriter,
        clock: Clock,
        journal: Journal,
        tasks: Tasks,
        lease: Callable[[], int],
        lease_lost: Callable[[], None],
        wait_for_view: "Callable[[Revision], asyncio.Future[None]]",
        view: Callable[[ModelId, Registered | None], ModelView],
        others: Callable[[ModelId], tuple[tuple[InstanceId, Revision], ...]],
        step: Callable[[Entry, CopyInput], None],
        drop: Callable[[ModelId, DropReason], None],
        failure_expiry_ms: int,
        read_only: bool,
    ) -> None:
        self._own = own
        self._entries = entries
        self._writer = writer
        self._clock = clock
        self._journal = journal
        self._tasks = tasks
        self._lease = lease
        self._lease_lost = lease_lost
        self._wait_for_view = wait_for_view
        self._view = view
        self._others = others
        self._step = step
        self._drop = drop
        self._failure_expiry_ms = failure_expiry_ms
        self._read_only = read_only
        self.stale: dict[ModelId, Revision] = {}
        """Copies that were dropped while the store was away: their keys are deleted when it is back."""

    async def record_failure(self, entry: Entry) -> None:
        """Delete the key and remember why; then those who wait learn it."""
        end = entry.end
        assert isinstance(end, LoadFailed)
        view = self._view(entry.model, entry.registered)
        if end.lost:
            failure = self._lost(view, FailureKind.LOST_WHILE_LOADING, end.message, entry.registered.create_revision)
        else:
            failure = believe(
                end.status,
                end.message,
                previous=next((known.record for known in view.failures if known.instance == self._own), None),
                record_revision=entry.registered.create_revision,
                now_ms=self._clock.now_ms(),
                expiry_ms=self._failure_expiry_ms,
            )
        try:
            revision = await self._writer.fail(entry.model, failure)
            await self._wait_for_view(revision)
        except StoreError:
            self.stale[entry.model] = entry.registered.create_revision
            if end.lost:
                self._tasks.start(self._remember(entry.model, failure), f"remember {entry.model}")
        entry.answer_waiters()

    async def lost(self, model: ModelId, kind: FailureKind, message: str) -> None:
        """As `lost_at`, of a model with a copy here; nothing if there is none."""
        entry = self._entries.get(model)
        if entry is not None:
            await self.lost_at(model, entry.registered, kind, message)

    async def lost_at(self, model: ModelId, registered: Registered, kind: FailureKind, message: str) -> None:
        """Remember that a runtime ended while it processed a model, whatever happens to the copy.

        Ends when the view has it; if the store is away, it is written later.
        """
        view, now_ms = self._view(model, registered), self._clock.now_ms()
        if any(
            known.instance == self._own and known.record.kind is kind and now_ms - known.record.since_ms < SAME_LOSS_MS
            for known in view.failures
        ):
            return
        failure = self._lost(view, kind, message, registered.create_revision)
        self._journal.note(
            "lost_in_use" if kind is FailureKind.LOST_IN_USE else "lost_while_loading",
            model,
            detail=f"{message} ({failure.count} of {MOST_LOSSES} before it rests)",
        )
        try:
            await self._wait_for_view(await self._writer.remember(model, failure))
        except StoreError:
            self._tasks.start(self._remember(model, failure), f"remember {model}")

    def _lost(self, view: ModelView, kind: FailureKind, message: str, create_revision: Revision) -> FailureRecord:
        return lost(
            kind,
            message,
            known=[known.record for known in view.failures],
            record_revision=create_revision,
            now_ms=self._clock.now_ms(),
            expiry_ms=self._failure_expiry_ms,
        )

    async def _remember(self, model: ModelId, failure: FailureRecord) -> None:
        while self._clock.now_ms() < failure.until_ms:
            await self._clock.sleep(RETRY_MS)
            try:
                await self._writer.remember(model, failure)
            except StoreError:
                continue
            return

    def publish(self, entry: Entry) -> None:
        """Publish that the copy is loaded, until the store has taken it; nothing if it is not loaded any more."""
        if entry.state not in OPEN:
            return
        if entry.publishing:
            entry.publish_again = True
            return
        entry.publishing = True
        self._tasks.start(
            self._publish_until_done(entry),
            f"publish {entry.model}",
            failed=lambda _: asyncio.get_running_loop().call_later(RETRY_MS / 1000, self.publish, entry),
        )

    async def _publish_until_done(self, entry: Entry) -> None:
        try:
            while entry.state in OPEN:
                entry.publish_again = False
                if await self._publish_once(entry) and not entry.publish_again:
                    return
        finally:
            entry.publishing = False

    async def _publish_once(self, entry: Entry) -> bool:
        disproved = tuple(
            failure.instance
            for failure in self._view(entry.model, None).failures
            if failure.record.kind is FailureKind.LOST_WHILE_LOADING
            or (failure.instance == self._own and failure.record.kind is not FailureKind.LOST_IN_USE)
        )
        try:
            revision = await self._writer.publish(entry.model, entry.stored(), lease=self._lease(), disproved=disproved)
        except LeaseNotFoundError:
            self._lease_lost()
        except StoreError:
            pass
        else:
            if revision is None:
                self._drop(entry.model, DropReason.UNREGISTERED)
            else:
                entry.written = revision
                entry.published.set()
            return True
        await self._clock.sleep(RETRY_MS)
        return False

    async def withdraw(self, entry: Entry) -> None:
        """Delete the key of a copy that is to leave, unless the copies that it relies on no longer exist.

        One that became void meanwhile leaves in any case, and does not wait for the store.
        """
        while True:
            void = entry.state is not CopyState.WITHDRAWING
            try:
                gone = await self._writer.withdraw(
                    entry.model,
                    record_revision=entry.registered.create_revision,
                    relied_on=() if void else entry.relied_on,
                    last=self._last(entry),
                )
            except StoreError:
                if entry.forced or entry.state is not CopyState.WITHDRAWING:
                    self.stale[entry.model] = entry.registered.create_revision
                    gone = True
                else:
                    await self._clock.sleep(RETRY_MS)
                    continue
            if entry.state is CopyState.WITHDRAWING:
                if not gone:
                    entry.denied_copies = entry.relied_on
                self._step(entry, CopyInput.WITHDRAWN if gone else CopyInput.KEPT)
                return
            if gone:
                return

    def _last(self, entry: Entry) -> tuple[Revision, ModelRecord] | None:
        """The record with what this copy knows of its use."""
        if self._read_only:
            return None
        now_ms = self._clock.now_ms()
        registered = entry.registered
        record = registered.record.used(min(entry.last_use_ms, now_ms))
        remain = len(self._others(entry.model))
        return registered.mod_revision, replace(record, last_unload_ms=now_ms if remain > SPARE_COPIES else 0)

    async def remove(self, entry: Entry) -> None:
        """Delete the key, whatever other copies there are."""
        try:
            await self._writer.withdraw(entry.model, record_revision=entry.registered.create_revision)
        except StoreError:
            self.stale[entry.model] = entry.registered.create_revision
