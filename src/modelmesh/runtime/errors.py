"""Errors of a runtime: exceptions that carry their gRPC status.

An author raises what fits, `LoadError` or a plain exception. A plain one is mapped by `status_of`, so
the caller always sees a status that means something and a message that names the cause:

| raised | status |
|---|---|
| a `RuntimeFault` (`LoadError`, `RequestError`, …) | the one it carries |
| `TimeoutError` | DEADLINE_EXCEEDED |
| `MemoryError` | RESOURCE_EXHAUSTED |
| `ValueError` | INVALID_ARGUMENT: the request or the model file is wrong |
| `OSError`, `ImportError` | FAILED_PRECONDITION: this machine lacks a file or a package |
| `NotImplementedError` | UNIMPLEMENTED |
| anything else | INTERNAL |
"""

from modelmesh.values.status import Status


class RuntimeFault(Exception):  # noqa: N818 - a fault is the family, its members are errors
    """The base of errors that are answered with a status of their own."""

    status: Status = Status.INTERNAL

    def __init__(self, message: str, *, status: Status | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class LoadError(RuntimeFault):
    """A model cannot be loaded: its file is missing, broken or of another kind.

    INVALID_ARGUMENT by default: a retry elsewhere does not help.
    """

    status = Status.INVALID_ARGUMENT


class RequestError(RuntimeFault):
    """An inference request is wrong: a tensor's name, type or shape, a missing parameter."""

    status = Status.INVALID_ARGUMENT


class ModelNotLoadedError(RuntimeFault):
    """The model is not loaded here. The mesh answers it by loading the model."""

    status = Status.NOT_FOUND

    def __init__(self, model: str) -> None:
        super().__init__(f"model {model!r} is not loaded at this runtime")
        self.model = model


class CapacityError(RuntimeFault):
    """A model does not fit beside those that are loaded."""

    status = Status.RESOURCE_EXHAUSTED

    def __init__(self, model: str, *, wanted_bytes: int, free_bytes: int, capacity_bytes: int) -> None:
        super().__init__(
            f"model {model!r} needs {wanted_bytes} bytes, but {max(free_bytes, 0)} of {capacity_bytes} bytes are free;"
            " unload another model first"
        )
        self.model = model
        self.wanted_bytes = wanted_bytes
        self.free_bytes = free_bytes
        self.capacity_bytes = capacity_bytes


class LoadEndedError(RuntimeFault):
    """A load ended before it was done: its callers left, or the runtime had to unload everything."""

    status = Status.ABORTED


_PLAIN: tuple[tuple[type[Exception], Status], ...] = (
    (TimeoutError, Status.DEADLINE_EXCEEDED),  # before OSError, its base
    (MemoryError, Status.RESOURCE_EXHAUSTED),
    (ValueError, Status.INVALID_ARGUMENT),
    (OSError, Status.FAILED_PRECONDITION),
    (ImportError, Status.FAILED_PRECONDITION),
    (NotImplementedError, Status.UNIMPLEMENTED),
)


def status_of(error: Exception) -> Status:
    """The status that answers an exception."""
    if isinstance(error, RuntimeFault):
        return error.status
    return next((status for kind, status in _PLAIN if isinstance(error, kind)), Status.INTERNAL)


def describe(error: Exception) -> str:
    """One line for the caller: the message, after the exception's name if it is not one of this library."""
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeFault):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
