"""What the controller needs of the API server and of the meshes, and how that fails."""

import enum
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from modelmesh._proto import admin_pb2, model_mesh_pb2
from modelmesh.kubernetes.kinds import Key, Kind, Object
from modelmesh.values.status import Status

MANAGER = "modelmesh-controller"
"""The field manager of the controller: it owns the fields that it applies."""


class ApiError(Exception):
    """The API server refused, or did not answer.

    Attributes:
        code: The HTTP status; 0: there was no answer.
        retry_after_s: How long the server asks to wait; 0: it does not say.
    """

    def __init__(self, code: int, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class NotFoundError(ApiError):
    """404: there is no such object, or no such kind."""


class ConflictError(ApiError):
    """409: the object changed since it was read, or exists already."""


class GoneError(ApiError):
    """410: the revision is no longer kept; list again."""


class Change(enum.Enum):
    """A change in a watch."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which objects of a kind. `labels` and `fields` are selectors as the API server reads them; empty: all."""

    namespace: str = ""
    labels: str = ""
    fields: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing. `revision` is that of the listing; `more` continues it, empty on the last page."""

    items: tuple[Object, ...]
    revision: str
    more: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change, or a bookmark, whose object has nothing but a revision."""

    change: Change
    item: Object


class Api(Protocol):
    """The API server. Every call raises ApiError, and is bounded in time."""

    async def list(self, kind: Kind, scope: Scope, *, limit: int, after: str = "") -> Page:
        """A page of objects; `after` is `Page.more`. Raises GoneError if the listing is no longer kept."""
        ...

    def watch(self, kind: Kind, scope: Scope, *, revision: str) -> AsyncGenerator[WatchEvent, None]:
        """The changes after a revision; ends when the server ends it. Raises GoneError."""
        ...

    async def read(self, kind: Kind, key: Key) -> Object | None:
        """One object."""
        ...

    async def apply(self, kind: Kind, item: Object, *, manager: str = MANAGER) -> Object:
        """Server-side apply, taking what it says by force. The object as it is then.

        With `metadata.resourceVersion` in it: ConflictError if the object changed since.
        """
        ...

    async def merge(
        self, kind: Kind, key: Key, patch: Object, *, subresource: str = "", manager: str = MANAGER
    ) -> Object:
        """JSON merge patch. With `metadata.resourceVersion` in it: ConflictError if the object changed since."""
        ...

    async def create(self, kind: Kind, item: Object) -> Object:
        """Raises ConflictError if there is one of the name."""
        ...

    async def replace(self, kind: Kind, item: Object) -> Object:
        """Raises ConflictError if it changed since its resourceVersion."""
        ...

    async def delete(self, kind: Kind, key: Key, *, uid: str = "") -> None:
        """Delete it, if it is there; with `uid` only that very object."""
        ...


class MeshError(Exception):
    """A call to a mesh failed.

    Attributes:
        code: A status code of gRPC, as `modelmesh.values.status.Status` has it.
    """

    def __init__(self, code: Status, message: str) -> None:
        super().__init__(message)
        self.code = code


class MeshCalls(Protocol):
    """Calls to one instance of a mesh. Each raises MeshError, and is bounded in time, but for the stream."""

    def watch(self, request: admin_pb2.WatchStatusRequest) -> AsyncGenerator[admin_pb2.StatusUpdate, None]:
        """`Admin/WatchStatus`. An answer is acknowledged when the next is asked for."""
        ...

    async def set_vmodels(self, request: admin_pb2.SetVModelsRequest) -> admin_pb2.SetVModelsResponse:
        """`Admin/SetVModels`."""
        ...

    async def set_vmodel(self, request: model_mesh_pb2.SetVModelRequest) -> model_mesh_pb2.VModelStatusInfo:
        """`ModelMesh/setVModel`, for instances that set no batches."""
        ...

    async def vmodel_status(self, request: model_mesh_pb2.GetVModelStatusRequest) -> model_mesh_pb2.VModelStatusInfo:
        """`ModelMesh/getVModelStatus`, for instances that stream no statuses."""
        ...

    async def delete_vmodel(self, request: model_mesh_pb2.DeleteVModelRequest) -> None:
        """`ModelMesh/deleteVModel`."""
        ...

    async def instances(self) -> admin_pb2.ListInstancesResponse:
        """`Admin/ListInstances`."""
        ...

    async def close(self) -> None:
        """End the connection."""
        ...
