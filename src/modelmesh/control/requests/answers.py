"""Answers that say when to retry, and answers to instances that asked this one to load."""

import base64

from modelmesh._proto import rpc_status_pb2 as pb
from modelmesh.values.dataplane import Fail, Outcome
from modelmesh.values.ids import Revision
from modelmesh.values.status import Status

RETRY_HINT_MS = 1000
"""If the duration is not known."""
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def retry_later(status: Status, message: str, after_ms: int) -> Fail:
    """A failure that is worth repeating: with the delay in both forms that gRPC clients know."""
    delay = pb.Duration(seconds=after_ms // 1000, nanos=after_ms % 1000 * 1_000_000)
    detail = pb.Any(type_url=_RETRY_INFO, value=pb.RetryInfo(retry_delay=delay).SerializeToString())
    details = base64.b64encode(pb.Status(code=status, message=message, details=[detail]).SerializeToString())
    trailers = (
        ("grpc-retry-pushback-ms", str(after_ms).encode()),
        ("grpc-status-details-bin", details.rstrip(b"=")),  # on the wire, binary values are text without padding
    )
    return Fail(status, message, trailers)


def refusal(outcome: Outcome, status: Status, message: str, view: Revision | None = None) -> Fail:
    """The answer to an instance that asked us to load."""
    trailers = [("mm-refused", outcome.value.encode())]
    if view is not None:
        trailers.append(("mm-view", str(view).encode()))
    return Fail(status, message, tuple(trailers))


def as_refusal(failure: Fail) -> Fail:
    """To an instance that asked us to load, our own troubles are a refusal: it may know another place."""
    refused = any(name == "mm-refused" for name, _ in failure.trailers)
    if refused or failure.status not in {Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED}:
        return failure
    return refusal(Outcome.BUSY, failure.status, failure.message)
