"""One watch stream to etcd, and how it is found dead."""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

from modelmesh._proto import etcd_pb2 as rpc
from modelmesh.adapters.channel import CallError, Stream
from modelmesh.adapters.store.etcd_channel import WATCH, EtcdChannel, is_token_refusal, parsed, translated
from modelmesh.ports import CompactedError, StoreError, StoreUnavailableError

T = TypeVar("T")

_SIGN_OF_LIFE = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()).SerializeToString()


class WatchStream:
    """A stream with one watch. `open`, `read` until it raises, `close` in any case.

    A watch is silent for hours if nothing happens, and also if the server has stopped or the
    network is cut. So after `silence_s` without an answer it asks for one, and gives it `answer_s`. One task
    looks after that beside the reads, because a time-out for each read costs more than all else about it.
    """

    def __init__(self, channel: EtcdChannel, *, answer_s: float, silence_s: float) -> None:
        self._channel = channel
        self._endpoint = channel.endpoint()
        self._answer_s = answer_s
        self._silence_s = silence_s
        self._stream: Stream | None = None
        self._guard: asyncio.Task[None] | None = None
        self._reading_since_s: float | None = None
        self._silent = False
        """Asked for a sign of life, and none came yet."""

    async def open(self, create: Any) -> None:
        """Ask for the watch; a refusal comes with `read`."""
        with self._translated():
            metadata = await self._in_time(self._channel.metadata())
            # A member cut off from the others would stay silent, and alive; with `hasleader` it hangs up instead.
            begun = self._endpoint.stream(WATCH.path, metadata=(*metadata, ("hasleader", "true")))
            self._stream = await self._in_time(begun)
            self._stream.send(rpc.WatchRequest(create_request=create).SerializeToString())
            self._guard = asyncio.create_task(self._end_if_silent())

    async def read(self) -> Any:
        """The next answer, maybe without events.

        Raises:
            CompactedError: The requested revision was compacted.
            StoreUnavailableError: The connection is lost, or etcd ended the watch.
        """
        assert self._stream is not None, "read before open"
        with self._translated():
            self._reading_since_s = asyncio.get_running_loop().time()
            try:
                data = await self._stream.read()
            finally:
                self._reading_since_s = None
            self._silent = False
            if data is None:
                raise StoreUnavailableError("etcd ended the watch")
            answer = parsed(WATCH, data)
            if answer.canceled:
                raise self._cancellation(answer)
            return answer

    async def close(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.close()
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)

    async def _end_if_silent(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            since_s = self._reading_since_s
            await asyncio.sleep(self._silence_s if since_s is None else since_s + self._silence_s - loop.time())
            if since_s is None or self._reading_since_s != since_s:
                continue  # an answer came
            self._silent = True
            assert self._stream is not None
            self._stream.send(_SIGN_OF_LIFE)
            await asyncio.sleep(self._answer_s)
            if self._reading_since_s == since_s:
                self._stream.close()
                return

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._answer_s):
                return await work
        except TimeoutError as err:
            raise StoreUnavailableError(
                f"etcd at {self._endpoint.target.address} did not answer within {self._answer_s} s"
            ) from err

    def _cancellation(self, answer: Any) -> StoreError:
        if answer.compact_revision:
            return CompactedError(f"the revision is no longer kept (those from {answer.compact_revision} are)")
        # A watch with a token that has run out is cancelled like one that is not permitted: only a new token shows which it is.
        if "auth token" in answer.cancel_reason or "permission denied" in answer.cancel_reason:
            self._channel.forget_token()
        return StoreUnavailableError(f"etcd cancelled the watch: {answer.cancel_reason or 'no reason given'}")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except CallError as err:
            if is_token_refusal(err):
                self._channel.forget_token()
            self._channel.leave(self._endpoint)
            if self._silent:
                silence_s = self._silence_s + self._answer_s
                raise StoreUnavailableError(
                    f"etcd at {self._endpoint.target.address} was silent for {silence_s} s"
                ) from err
            raise translated(err) from err
        except StoreUnavailableError:
            self._channel.leave(self._endpoint)
            raise
