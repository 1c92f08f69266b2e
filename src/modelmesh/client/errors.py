"""What fails with calls, by gRPC status, and when a call should be repeated."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError

from modelmesh._proto import rpc_status_pb2 as pb
from modelmesh.values.status import Status

DETAILS = "grpc-status-details-bin"
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
SHORTEST_RETRY_S = 0.01
"""The least pause between retries, also if the server allows them at once."""


class ModelMeshError(Exception):
    """A call failed.

    Args:
        status: gRPC's code. INTERNAL, too, if the answer cannot be read.
        message: The server's words.
        retry_after_s: When to repeat the call, in seconds; None: the server does not ask for that.
    """

    def __init__(self, status: Status, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message or 'the call failed'} ({self.status.name})"


class InvalidArgumentError(ModelMeshError):
    """INVALID_ARGUMENT: the model does not take these inputs, or the call contradicts itself."""


class NotFoundError(ModelMeshError):
    """NOT_FOUND: there is no such model or vmodel."""


class DeadlineExceededError(ModelMeshError):
    """DEADLINE_EXCEEDED: no answer within the time that was given."""


class PermissionDeniedError(ModelMeshError):
    """PERMISSION_DENIED or UNAUTHENTICATED: the caller has no right to this, or no valid credential."""


class UnavailableError(ModelMeshError):
    """UNAVAILABLE: no server answers, or none that can serve the model."""


_KINDS: dict[Status, type[ModelMeshError]] = {
    Status.INVALID_ARGUMENT: InvalidArgumentError,
    Status.NOT_FOUND: NotFoundError,
    Status.DEADLINE_EXCEEDED: DeadlineExceededError,
    Status.PERMISSION_DENIED: PermissionDeniedError,
    Status.UNAUTHENTICATED: PermissionDeniedError,
    Status.UNAVAILABLE: UnavailableError,
}


def error_of(failure: Any) -> ModelMeshError:
    """Our error for a `grpc.RpcError` of a call, which has the methods of a `grpc.Call`."""
    status = Status(failure.code().value[0])
    retry_s = retry_after_s(failure.trailing_metadata() or ())
    return _KINDS.get(status, ModelMeshError)(status, failure.details() or "", retry_after_s=retry_s)


def retry_after_s(trailers: Iterable[Any]) -> float | None:
    """Seconds until the call should be repeated, from `google.rpc.RetryInfo` of its error; None: there is none."""
    for name, value in trailers:
        if name != DETAILS:
            continue
        try:
            for detail in pb.Status.FromString(value).details:
                if detail.type_url == RETRY_INFO:
                    delay = pb.RetryInfo.FromString(detail.value).retry_delay
                    seconds = delay.seconds + delay.nanos / 1e9
                    return seconds if seconds >= 0 else None
        except (DecodeError, TypeError):  # a hint that cannot be read is none
            return None
    return None


def pause_s(error: ModelMeshError, left_s: float) -> float | None:
    """How long to wait before the call is sent again; None: it is not, because the server did not ask for it or there is no time."""
    if error.retry_after_s is None:
        return None
    pause = max(error.retry_after_s, SHORTEST_RETRY_S)
    return pause if pause < left_s else None
