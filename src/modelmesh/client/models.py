"""Statuses and metadata of models, as values."""

import enum
from dataclasses import dataclass

from modelmesh._proto import model_mesh_pb2 as pb


class ModelState(enum.StrEnum):
    """Of a model, or of one of its copies."""

    NOT_FOUND = "NOT_FOUND"
    """It is not registered."""
    NOT_LOADED = "NOT_LOADED"
    """The next call loads it."""
    LOADING = "LOADING"
    LOADED = "LOADED"
    LOADING_FAILED = "LOADING_FAILED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class ModelCopy:
    """A copy of a model.

    Args:
        instance: Where it is.
        state: What it is doing.
        since_ms: When that began, in milliseconds since 1970; 0: not known.
    """

    instance: str
    state: ModelState
    since_ms: int


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model in the mesh.

    Args:
        model: Its id.
        state: LOADED if a copy is.
        errors: Why loads failed.
        copies: Where it is, or was tried.
    """

    model: str
    state: ModelState
    errors: tuple[str, ...]
    copies: tuple[ModelCopy, ...]


def status_of(model: str, info: pb.ModelStatusInfo) -> ModelStatus:
    """The status of a model from its message; a state of a later version is UNKNOWN."""
    copies = (ModelCopy(copy.location, _state(copy.copyStatus), copy.time) for copy in info.modelCopyInfos)
    return ModelStatus(model, _state(info.status), tuple(info.errors), tuple(copies))


def _state(number: int) -> ModelState:
    value = pb.ModelStatusInfo.ModelStatus.DESCRIPTOR.values_by_number.get(number)
    return ModelState.UNKNOWN if value is None else ModelState(value.name)
