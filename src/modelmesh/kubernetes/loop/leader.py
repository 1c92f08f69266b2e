"""Leader election by a Lease: of several controllers one works. Source: spec/serving-controller.md 0.2.

The lock is the old controller's, so that the two never work at the same time. Clocks of two hosts are not compared: a
follower counts from when it saw the lease change.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

from modelmesh.kubernetes.kinds import LEASE, Key, Object
from modelmesh.kubernetes.ports import Api, ApiError, ConflictError
from modelmesh.ports import Clock

LOCK = "modelmesh-controller-leader-lock"


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds. A leader that could not renew for `renew_s` ends its work; another begins after `duration_s` at the earliest."""

    duration_s: int = 15
    renew_s: int = 10
    retry_s: int = 2

    def __post_init__(self) -> None:
        """Raise ValueError if two could lead at a time."""
        if not self.duration_s > self.renew_s > self.retry_s > 0:
            raise ValueError(
                f"the lease must last longer ({self.duration_s} s) than its renewal is tried ({self.renew_s} s), and that"
                f" longer than the pause between attempts ({self.retry_s} s)"
            )


class Leadership:
    """Holds the lease of one controller.

    Args:
        key: Of the Lease.
        identity: Of this process; no other has it.
    """

    def __init__(
        self, *, api: Api, clock: Clock, rng: Random, key: Key, identity: str, times: LeaseTimes | None = None
    ) -> None:
        self._api = api
        self._clock = clock
        self._rng = rng
        self._key = key
        self._identity = identity
        self._times = times or LeaseTimes()
        self._seen: tuple[str, int] = ("", 0)
        """The lease's revision as last seen, and since when it has it."""
        self.leads = False

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then work as long as it is held; forever. Returns if `work` does. Gives the lease back.

        `work` is cancelled if the lease is lost, and begun again when it is held again.
        """
        while True:
            while not await self._try():
                await self._pause()
            self.leads = True
            working = asyncio.ensure_future(work())
            renewing = asyncio.ensure_future(self._renew())
            try:
                await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return working.result()
            finally:
                self.leads = False
                working.cancel()
                renewing.cancel()
                await asyncio.gather(working, renewing, return_exceptions=True)
                await self._give_back()

    async def _renew(self) -> None:
        """Renew the lease until that fails for too long, or another replica has it."""
        held_ms = self._clock.monotonic_ms()
        while self._clock.monotonic_ms() - held_ms < self._times.renew_s * 1000:
            await self._pause()
            began_ms = self._clock.monotonic_ms()
            try:
                async with asyncio.timeout(self._times.retry_s):
                    if await self._take():
                        held_ms = began_ms
                    else:
                        return
            except (ApiError, TimeoutError):
                continue

    async def _pause(self) -> None:
        base_ms = self._times.retry_s * 1000
        await self._clock.sleep(base_ms // 2 + self._rng.randrange(base_ms // 2))

    async def _try(self) -> bool:
        try:
            return await self._take()
        except ApiError:
            return False

    async def _take(self) -> bool:
        """Write the lease if it is ours, has no holder, or was not renewed for its duration. Raises ApiError.

        A conflict is not always another replica: if the answer to our own write was lost, the HTTP client made the write again.
        So the lease is looked at once more. False: another holds it.
        """
        with suppress(ConflictError):
            return await self._look_and_write()
        return await self._look_and_write()

    async def _look_and_write(self) -> bool:
        """Raises ConflictError: the lease changed since it was read."""
        found = await self._api.read(LEASE, self._key)
        if found is None:
            lease = {
                "apiVersion": LEASE.api_version,
                "kind": LEASE.name,
                "metadata": {"name": self._key.name, "namespace": self._key.namespace},
                "spec": self._spec({}),
            }
            self._saw(await self._api.create(LEASE, lease))
            return True
        spec = found.get("spec") or {}
        revision, now_ms = found["metadata"]["resourceVersion"], self._clock.monotonic_ms()
        if revision != self._seen[0]:
            self._seen = revision, now_ms
        holder = spec.get("holderIdentity") or ""
        duration_s = spec.get("leaseDurationSeconds") or self._times.duration_s
        if holder not in {"", self._identity} and now_ms - self._seen[1] < duration_s * 1000:
            return False
        self._saw(await self._api.replace(LEASE, {**found, "spec": self._spec(spec)}))
        return True

    def _saw(self, written: Object) -> None:
        self._seen = written["metadata"]["resourceVersion"], self._clock.monotonic_ms()

    def _spec(self, before: Object) -> Object:
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).isoformat(timespec="microseconds")
        ours = before.get("holderIdentity") == self._identity
        return {
            **before,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._times.duration_s,
            "renewTime": now.replace("+00:00", "Z"),
            "acquireTime": before.get("acquireTime") if ours else now.replace("+00:00", "Z"),
            "leaseTransitions": (before.get("leaseTransitions") or 0) + (not ours and bool(before)),
        }

    async def _give_back(self) -> None:
        """Let another begin at once; if that fails, the lease ends by itself."""
        try:
            async with asyncio.timeout(self._times.retry_s):
                found = await self._api.read(LEASE, self._key)
                if found is not None and found["spec"].get("holderIdentity") == self._identity:
                    spec = {**found["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._api.replace(LEASE, {**found, "spec": spec})
        except (ApiError, TimeoutError):
            pass
