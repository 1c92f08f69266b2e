"""Calls to one of several etcd endpoints: time-outs, fail-over, user tokens and errors.

Knows gRPC and nothing of keys.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
from aetcd import rpc

from modelmesh.adapters.store.etcd_settings import EtcdSettings
from modelmesh.ports import CompactedError, LeaseNotFoundError, StoreError, StoreUnavailableError

CALL_TIMEOUT_S = 3.5
"""For each read, write and transaction, as ModelMesh always had it."""

_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""One answer may hold a whole table."""

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # etcd ends connections that ping more often than every 5 s, or without an open call.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_500),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC would wait up to two minutes before it looks again whether a server has come back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Two stores in one process must not share a connection: one may have to be dropped.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]

Metadata = tuple[tuple[str, str], ...]


class _Endpoint:
    """One address, and the stubs of its channel."""

    def __init__(self, address: str, settings: EtcdSettings) -> None:
        options = list(_OPTIONS)
        if settings.override_authority:
            options.append(("grpc.default_authority", settings.override_authority))
            options.append(("grpc.ssl_target_name_override", settings.override_authority))
        if settings.tls:
            credentials = grpc.ssl_channel_credentials(settings.ca, settings.client_key, settings.client_certificate)
            self.channel = grpc.aio.secure_channel(address, credentials, options=options)
        else:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        self.address = address
        self.kv = rpc.KVStub(self.channel)
        self.watch = rpc.WatchStub(self.channel)
        self.lease = rpc.LeaseStub(self.channel)
        self.auth = rpc.AuthStub(self.channel)


class EtcdChannel:
    """The connection to a cluster. Uses one endpoint until it fails, then the next."""

    def __init__(self, settings: EtcdSettings, call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Connects at the first call."""
        self._settings = settings
        self._timeout_s = call_timeout_s
        self._endpoints: list[_Endpoint] = []
        self._retired: list[_Endpoint] = []
        """Those of the settings before, for the streams that still run there."""
        self._current = 0
        self._token = ""
        self._authentication: asyncio.Task[str] | None = None
        self._closed = False

    async def call(self, perform: Callable[[_Endpoint, Metadata], Awaitable[Any]], *, repeatable: bool) -> Any:
        """Perform an RPC at the current endpoint, elsewhere if that cannot be connected, all within the time-out.

        Args:
            perform: Starts the call with the endpoint's stubs and the metadata to send.
            repeatable: May also be sent again after it may have been executed: reads.

        Raises:
            StoreError: As `translated`.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._call(perform, repeatable=repeatable)
        except TimeoutError as err:
            self._leave(self._current)
            raise StoreUnavailableError(
                f"etcd at {self._settings.described} did not answer within {self._timeout_s} s"
            ) from err

    async def _call(self, perform: Callable[[_Endpoint, Metadata], Awaitable[Any]], *, repeatable: bool) -> Any:
        renewed = False
        failures = 0
        while True:
            index = self._current
            endpoint = self._endpoint(index)
            try:
                return await perform(endpoint, await self.metadata())
            except (asyncio.CancelledError, grpc.aio.UsageError) as err:
                if self.closed_under_call():
                    raise StoreUnavailableError("the store is closed") from err
                raise
            except grpc.aio.AioRpcError as err:
                if not renewed and is_token_refusal(err):
                    renewed = True
                    self._token = ""
                    continue
                if err.code() is grpc.StatusCode.UNAVAILABLE:
                    failures += 1
                    self._leave(index)
                    if failures < len(self._settings.endpoints) and (repeatable or _was_never_sent(err)):
                        continue
                raise translated(err) from err

    async def metadata(self) -> Metadata:
        """What to send with every call; asks for a token first if there is a user and no token."""
        if not self._settings.user:
            return ()
        token = self._token
        if not token:
            # One request for many waiting calls; it goes on if the call that began it is given up.
            if self._authentication is None or self._authentication.done():
                self._authentication = asyncio.create_task(self._authenticate())
                # Everybody may have given up before it fails.
                self._authentication.add_done_callback(lambda done: done.cancelled() or done.exception())
            token = await asyncio.shield(self._authentication)
        return (("token", token),) if token else ()

    async def _authenticate(self) -> str:
        """A new token; empty if etcd wants none."""
        settings = self._settings
        request = rpc.AuthenticateRequest(name=settings.user, password=settings.password)
        try:
            answer = await self._endpoint(self._current).auth.Authenticate(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as err:
            if "authentication is not enabled" in (err.details() or ""):
                return ""  # a user is configured for when it will be
            raise
        token = str(answer.token)
        if self._settings is settings:
            self._token = token
        return token

    def endpoint(self) -> _Endpoint:
        """The endpoint in use, for streams."""
        return self._endpoint(self._current)

    def leave(self, endpoint: _Endpoint) -> None:
        """A stream to this endpoint failed: try another for what comes next."""
        if self._endpoints and self._endpoints[self._current] is endpoint:
            self._leave(self._current)

    def forget_token(self) -> None:
        """The server refused the token: ask for another at the next call."""
        self._token = ""

    def closed_under_call(self) -> bool:
        """Whether a call that was just cancelled was so by `close`, and not by the task that waits for it.

        gRPC raises CancelledError for both, and a task that sees one that nobody sent would end silently.
        """
        return self._closed and not task_is_ending()

    async def renew(self, settings: EtcdSettings) -> None:
        """Make calls in another way from now on. Calls and streams of the settings before the last ones fail."""
        retired, self._retired, self._endpoints = self._retired, self._endpoints, []
        self._settings = settings
        self._current = 0
        self._token = ""
        self._authentication = None  # who waits for it gets what it brings
        await _close(retired)

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        self._closed = True
        if self._authentication is not None:
            self._authentication.cancel()
            await asyncio.gather(self._authentication, return_exceptions=True)
        await _close([*self._endpoints, *self._retired])
        self._endpoints.clear()
        self._retired.clear()

    def _endpoint(self, index: int) -> _Endpoint:
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        if not self._endpoints:
            # All at once: an idle channel costs no connection.
            self._endpoints = [_Endpoint(address, self._settings) for address in self._settings.endpoints]
        return self._endpoints[index]

    def _leave(self, index: int) -> None:
        # Many calls fail together; only the first of them may turn the wheel.
        if index == self._current:
            self._current = (index + 1) % len(self._settings.endpoints)


async def _close(endpoints: Iterable[_Endpoint]) -> None:
    for endpoint in endpoints:
        await endpoint.channel.close(None)


def task_is_ending() -> bool:
    """Whether somebody cancelled the running task: then a CancelledError is meant for it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_token_refusal(error: grpc.aio.AioRpcError) -> bool:
    """Whether a new token may cure it; the call was not executed."""
    details = error.details() or ""
    return "invalid auth token" in details or "revision of auth store is old" in details


def _was_never_sent(error: grpc.aio.AioRpcError) -> bool:
    # gRPC has no code for "no connection"; its message for it has been stable for years.
    return "failed to connect" in (error.details() or "")


def translated(error: grpc.aio.AioRpcError) -> StoreError:
    """The port's error for one of gRPC's."""
    code, details = error.code(), error.details() or "no details"
    if "requested lease not found" in details:
        return LeaseNotFoundError("the lease is gone; nothing was written")
    if code is grpc.StatusCode.OUT_OF_RANGE:
        # Compacted, or above the current revision: then this is a younger store than the one that told it.
        return CompactedError(details)
    message = f"etcd answered {code.name}: {details}"
    # What etcd refuses for what it is will be refused again; everything else may pass.
    refused = {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
    return StoreError(message) if code in refused else StoreUnavailableError(message)
