"""Kubernetes Events: written in the background, never waited for, and few for each object."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from itertools import count

from modelmesh.kubernetes.kinds import EVENT, Key, Kind, Object
from modelmesh.kubernetes.ports import Api, ApiError
from modelmesh.kubernetes.status.conditions import shortened, time_text
from modelmesh.kubernetes.status.events import Notice
from modelmesh.ports import Clock

COMPONENT = "modelmesh-controller"
WAITING = 512
"""Events that wait to be written; those beyond it are dropped and counted."""

BURST = 20
REFILL_MS = 60_000
"""Of one object: so many at once, and one more each minute."""

CLUSTER_NAMESPACE = "default"
"""Of Events of objects that have no namespace."""

OBJECTS = 2_000
"""Of which the rate is remembered."""


class Recorder:
    """Writes Events.

    Args:
        failed: Called for each that could not be written.
    """

    def __init__(self, api: Api, clock: Clock, *, failed: Callable[[ApiError], object] = lambda _: None) -> None:
        self._api = api
        self._clock = clock
        self._failed = failed
        self._queue: asyncio.Queue[tuple[Kind, Object, Notice, int]] = asyncio.Queue(WAITING)
        self._tokens: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._numbers = count()
        self.dropped = 0

    def record(self, kind: Kind, item: Object, notice: Notice) -> None:
        """Write an Event of an object, soon."""
        now_ms = self._clock.now_ms()
        if not self._take_token(item["metadata"].get("uid", ""), now_ms):
            self.dropped += 1
            return
        try:
            self._queue.put_nowait((kind, item, notice, now_ms))
        except asyncio.QueueFull:
            self.dropped += 1

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            kind, item, notice, now_ms = await self._queue.get()
            event = self._event(kind, item, notice, now_ms)
            try:
                await self._api.create(EVENT, event)
            except ApiError as error:
                self.dropped += 1
                self._failed(error)

    def _take_token(self, uid: str, now_ms: int) -> bool:
        tokens, at_ms = self._tokens.pop(uid, (float(BURST), now_ms))
        tokens = min(float(BURST), tokens + (now_ms - at_ms) / REFILL_MS)
        allowed = tokens >= 1
        self._tokens[uid] = (tokens - allowed, now_ms)
        if len(self._tokens) > OBJECTS:
            self._tokens.popitem(last=False)
        return allowed

    def _event(self, kind: Kind, item: Object, notice: Notice, now_ms: int) -> Object:
        metadata = item["metadata"]
        key = Key(metadata.get("namespace") or CLUSTER_NAMESPACE, metadata["name"])
        time = time_text(now_ms)
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {"name": f"{key.name[:200]}.{now_ms:x}{next(self._numbers):x}", "namespace": key.namespace},
            "involvedObject": {
                "apiVersion": kind.api_version,
                "kind": kind.name,
                "name": key.name,
                "namespace": metadata.get("namespace", ""),
                "uid": metadata.get("uid", ""),
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": "Warning" if notice.warning else "Normal",
            "reason": notice.reason,
            "message": shortened(notice.message),
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": COMPONENT,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }
