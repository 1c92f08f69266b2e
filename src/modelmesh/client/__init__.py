"""The Python client: calls models of a mesh, or of any server of the Open Inference Protocol, with numpy arrays."""

from modelmesh.client.asynchronous import AsyncClient
from modelmesh.client.connection import Tls
from modelmesh.client.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ModelMeshError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from modelmesh.client.models import ModelCopy, ModelState, ModelStatus
from modelmesh.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceededError",
    "InvalidArgumentError",
    "ModelCopy",
    "ModelMeshError",
    "ModelState",
    "ModelStatus",
    "NotFoundError",
    "PermissionDeniedError",
    "Tls",
    "UnavailableError",
]
