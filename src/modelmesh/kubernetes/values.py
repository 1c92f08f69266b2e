"""What a mesh says of a vmodel, as the controller keeps it."""

import enum
from dataclasses import dataclass


class MeshState(enum.Enum):
    """Of a model in the mesh, and of one of its copies."""

    NOT_FOUND = "not_found"
    NOT_LOADED = "not_loaded"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class MeshTransition(enum.Enum):
    """Of a vmodel in the mesh."""

    NOT_FOUND = "not_found"
    DEFINED = "defined"
    MOVING = "moving"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class MeshCopy:
    """A copy of a model. `location` is the id of an instance, `since_ms` epoch milliseconds."""

    location: str
    state: MeshState
    since_ms: int


@dataclass(frozen=True, slots=True)
class MeshModel:
    """A concrete model. `errors` are those of failed loads, newest first."""

    state: MeshState
    errors: tuple[str, ...] = ()
    copies: tuple[MeshCopy, ...] = ()


@dataclass(frozen=True, slots=True)
class MeshVModel:
    """A vmodel. `target` is the status of the target if that is another model than the active one."""

    transition: MeshTransition
    active_id: str
    target_id: str
    owner: str
    active: MeshModel | None
    target: MeshModel | None = None
