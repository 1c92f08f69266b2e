"""Log lines of inference calls: those that failed, all, or each call to the runtime."""

import base64
import binascii
import contextlib
import logging
from collections.abc import Mapping

import structlog

from modelmesh.values.dataplane import Headers, Logged
from modelmesh.values.status import Status

_OURS = frozenset({Status.UNKNOWN, Status.INTERNAL, Status.DATA_LOSS})
"""Statuses that indicate a bug; others are logged as warnings, since callers cause many of them."""

VALUE_CHARACTERS_MAX = 1024
"""Of a header in a line."""


def mapped(headers: Headers, keys: Mapping[str, str]) -> dict[str, str]:
    """The headers to be logged, by key of the log, in the order of `keys`; `-bin` values decoded."""
    given = dict(headers)
    return {key: _text(name, given[name]) for name, key in keys.items() if name in given}


def _text(name: str, value: bytes) -> str:
    if name.endswith("-bin"):
        # gRPC libraries leave the padding out; what is no base64 is logged as it came.
        with contextlib.suppress(binascii.Error):
            value = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    text = value.decode(errors="replace")[:VALUE_CHARACTERS_MAX]
    # A caller must not end a line of the log and begin another.
    return "".join(character if character.isprintable() else "�" for character in text)


class CallLog:
    """Writes the lines.

    Args:
        keys: Header names and the keys they have in the log.
    """

    def __init__(self, instance: str, keys: Mapping[str, str]) -> None:
        self._log = structlog.get_logger("modelmesh").bind(instance=instance, component="calls")
        self._keys = keys

    def logged(self, call: Logged) -> None:
        """One call."""
        fields: dict[str, object] = {"request_id": call.id, "model": call.model or None, "vmodel": call.vmodel}
        fields |= mapped(call.headers, self._keys)
        if call.invocation:
            self._log.info(f"invoking model runtime gRPC method: {call.method}", **_present(fields))
            return
        fields |= {
            "method": call.method,
            "status": call.status.name,
            "reason": call.message or None,
            "duration_ms": call.duration_us / 1000,
            "attempts": call.attempts,
            "request_bytes": call.request_bytes,
            "response_bytes": call.response_bytes,
        }
        if call.status is Status.OK:
            self._log.info("call", **_present(fields))
        else:
            level = logging.ERROR if call.status in _OURS else logging.WARNING
            self._log.log(level, "call_failed", **_present(fields))


def _present(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
