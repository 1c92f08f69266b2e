"""Calls to one of several etcd endpoints: time-outs, fail-over, user tokens and errors.

Knows gRPC and nothing of keys.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from modelmesh._proto import etcd_pb2 as rpc
from modelmesh.adapters.channel import CallError, Channel, ClientTls, KeepAlive, Target
from modelmesh.adapters.store.etcd_settings import EtcdSettings
from modelmesh.ports import CompactedError, LeaseNotFoundError, StoreError, StoreUnavailableError
from modelmesh.values.status import Status

CALL_TIMEOUT_S = 3.5
"""For each read, write and transaction, as ModelMesh always had it."""

_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""One answer may hold a whole table."""

_KEEP_ALIVE = KeepAlive(after_s=10.0, answer_s=CALL_TIMEOUT_S)
"""etcd ends connections that ping more often than every 5 s."""

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Method:
    """One of etcd's: its path, and the class of its answers."""

    path: str
    answer: type[Any]


RANGE = Method("/etcdserverpb.KV/Range", rpc.RangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", rpc.TxnResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", rpc.CompactionResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", rpc.WatchResponse)
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", rpc.LeaseGrantResponse)
LEASE_KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", rpc.LeaseKeepAliveResponse)
LEASE_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", rpc.LeaseRevokeResponse)
_AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", rpc.AuthenticateResponse)


class NotPermittedError(StoreError):
    """etcd answered that the user may not do this."""


class EtcdChannel:
    """The connection to a cluster. Uses one endpoint until it fails, then the next."""

    def __init__(self, settings: EtcdSettings, call_timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Connects at the first call."""
        self._settings = settings
        self._timeout_s = call_timeout_s
        self._endpoints: list[Channel] = []
        self._retired: list[Channel] = []
        """Those of the settings before, for the streams that still run there."""
        self._current = 0
        self._token = ""
        self._authentication: asyncio.Task[str] | None = None
        self._closed = False

    async def call(self, method: Method, request: Any, *, repeatable: bool) -> Any:
        """Call the current endpoint, or another if that cannot be connected, all within the time-out.

        Args:
            method: Which.
            request: Its message.
            repeatable: May also be sent again after it may have been executed: reads.

        Raises:
            StoreError: As `translated`.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._call(method, request.SerializeToString(), repeatable=repeatable)
        except TimeoutError as err:
            self._leave(self._current)
            raise StoreUnavailableError(
                f"etcd at {self._settings.described} did not answer within {self._timeout_s} s"
            ) from err

    async def _call(self, method: Method, request: bytes, *, repeatable: bool) -> Any:
        renewed = False
        failures = 0
        while True:
            index = self._current
            endpoint = self._endpoint(index)
            try:
                return parsed(method, await endpoint.unary(method.path, request, metadata=await self.metadata()))
            except CallError as err:
                if not renewed and is_token_refusal(err):
                    renewed = True
                    self._token = ""
                    continue
                if err.status is Status.UNAVAILABLE:
                    failures += 1
                    self._leave(index)
                    if failures < len(self._settings.endpoints) and (repeatable or err.unprocessed):
                        continue
                raise translated(err) from err

    async def metadata(self) -> Metadata:
        """What to send with every call; asks for a token first if there is a user and no token."""
        if not self._settings.user:
            return ()
        token = self._token
        if not token:
            # One request for many waiting calls; it continues if the call that began it is given up.
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
        endpoint = self._endpoint(self._current)
        try:
            data = await endpoint.unary(_AUTHENTICATE.path, request.SerializeToString(), timeout_s=self._timeout_s)
        except CallError as err:
            if "authentication is not enabled" in err.details:
                return ""  # a user is configured for when it will be
            raise
        token = str(parsed(_AUTHENTICATE, data).token)
        if self._settings is settings:
            self._token = token
        return token

    def endpoint(self) -> Channel:
        """The endpoint in use, for streams."""
        return self._endpoint(self._current)

    def leave(self, endpoint: Channel) -> None:
        """A stream to this endpoint failed: try another for what comes next."""
        if self._endpoints and self._endpoints[self._current] is endpoint:
            self._leave(self._current)

    def forget_token(self) -> None:
        """The server refused the token: ask for another at the next call."""
        self._token = ""

    async def renew(self, settings: EtcdSettings) -> None:
        """Make calls in another way from now on. Calls and streams of the settings before the last ones fail."""
        retired, self._retired, self._endpoints = self._retired, self._endpoints, []
        self._settings = settings
        self._current = 0
        self._token = ""
        self._authentication = None  # its waiters get its result
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

    def _endpoint(self, index: int) -> Channel:
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        if not self._endpoints:
            # All at once: an idle channel costs no connection.
            self._endpoints = _channels(self._settings)
        return self._endpoints[index]

    def _leave(self, index: int) -> None:
        # Many calls fail together; only the first of them may turn the wheel.
        if index == self._current:
            self._current = (index + 1) % len(self._settings.endpoints)


def _channels(settings: EtcdSettings) -> list[Channel]:
    tls = None
    if settings.tls:
        try:
            tls = ClientTls(
                trusted=settings.ca, certificate_chain=settings.client_certificate, private_key=settings.client_key
            )
        except ValueError as err:
            raise StoreUnavailableError(f"etcd at {settings.described} cannot be called: {err}") from err
    return [
        Channel(
            Target(
                address=address,
                authority=settings.override_authority or address,
                tls=tls,
                tls_name=settings.override_authority,
                max_message_bytes=_MAX_MESSAGE_BYTES,
                keep_alive=_KEEP_ALIVE,
            )
        )
        for address in settings.endpoints
    ]


async def _close(endpoints: Iterable[Channel]) -> None:
    for endpoint in endpoints:
        await endpoint.close()


def parsed(method: Method, data: bytes) -> Any:
    """An answer of etcd.

    Raises:
        StoreUnavailableError: It is none.
    """
    try:
        return method.answer.FromString(data)
    except DecodeError as err:
        raise StoreUnavailableError(f"the answer to {method.path} is malformed ({len(data)} bytes)") from err


def is_token_refusal(error: CallError) -> bool:
    """Whether a new token may cure it; the call was not executed."""
    return "invalid auth token" in error.details or "revision of auth store is old" in error.details


def translated(error: CallError) -> StoreError:
    """The port's error for one of gRPC's."""
    status, details = error.status, error.details or "no details"
    if "requested lease not found" in details:
        return LeaseNotFoundError("the lease does not exist any more; nothing was written")
    if status is Status.OUT_OF_RANGE:
        # Compacted, or above the current revision: then this is a newer store than the one that reported it.
        return CompactedError(details)
    message = f"etcd answered {status.name}: {details}"
    if status is Status.PERMISSION_DENIED:
        return NotPermittedError(message)
    # What etcd refuses for what it is will be refused again; everything else may pass.
    refused = {Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED}
    return StoreError(message) if status in refused else StoreUnavailableError(message)
