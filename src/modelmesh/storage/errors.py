"""Errors of model files, each with its status; no text contains a secret."""

import errno
import re
from collections.abc import Iterable

from modelmesh.values.status import Status

LONGEST = 600
"""Characters of a message that another system wrote, at most."""

_QUERY = re.compile(r"\?[^\s\"'<>)\]]+")
_USERINFO = re.compile(r"(?<=://)[^/\s@\"']+@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SIGNED = re.compile(r"(?i)\b(authorization|x-amz-security-token|signature|sig)\b\s*[=:]\s*[^\s,;&\"']+")


class StorageError(Exception):
    """Model files cannot be had.

    `code` is what a load is answered with:

    | code | when |
    |---|---|
    | INVALID_ARGUMENT | the location, the model key or a file name will never do |
    | NOT_FOUND | no object is there |
    | PERMISSION_DENIED, UNAUTHENTICATED | the store refuses: 403, 401 |
    | FAILED_PRECONDITION | this place lacks something: a storage key, a package, a disk that can be written |
    | RESOURCE_EXHAUSTED | the disk or its budget is full; too many files or bytes |
    | ABORTED | the objects changed while they were pulled |
    | DATA_LOSS | the content does not match its digest |
    | UNAVAILABLE | the store cannot be reached, or asks to wait: the same pull may succeed later |
    | DEADLINE_EXCEEDED | nothing arrived for too long |
    """

    def __init__(self, code: Status, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.code in {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}

    def of(self, what: str) -> "StorageError":
        """The same error, with what was pulled in its text."""
        if what in self.message:
            return self
        return StorageError(self.code, f"{what}: {self.message}", retry_after_s=self.retry_after_s)


_STEPS = {
    Status.UNAUTHENTICATED: "give valid credentials in its storage configuration",
    Status.PERMISSION_DENIED: "give these credentials the right to list and read there",
    Status.NOT_FOUND: "check the path",
    Status.ABORTED: "pull again when nothing writes there",
    Status.UNAVAILABLE: "look after the store, and try again later",
    Status.INVALID_ARGUMENT: "check the location and its storage configuration",
}


def next_step(code: Status) -> str:
    """What to do when a store answers so, as the end of a message."""
    return f"; {_STEPS[code]}" if code in _STEPS else ""


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Text of another system on one line, without secrets, queries of URLs and signatures; bounded."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "…")
    text = _USERINFO.sub("", _QUERY.sub("?…", _CONTROL.sub("?", " ".join(text.split()))))
    text = _SIGNED.sub(r"\1=…", text)
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def of_http_status(status: int) -> Status:
    """The code for an HTTP answer that is no success."""
    if status == 401:
        return Status.UNAUTHENTICATED
    if status == 403:
        return Status.PERMISSION_DENIED
    if status in {404, 410}:
        return Status.NOT_FOUND
    if status in {409, 412}:
        return Status.ABORTED
    if status in {408, 425, 429} or status >= 500:
        return Status.UNAVAILABLE
    return Status.INVALID_ARGUMENT


def of_os_error(error: OSError, what: str) -> StorageError:
    """The error for a disk that does not do what it should; `what` names the place."""
    why = error.strerror or type(error).__name__
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return StorageError(
            Status.RESOURCE_EXHAUSTED, f"{what}: {why}; free disk space, or give the cache a smaller budget"
        )
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return StorageError(Status.UNAVAILABLE, f"{what}: {why}; raise the limit of open files")
    return StorageError(Status.FAILED_PRECONDITION, f"{what}: {why}; this process must be able to write there")
