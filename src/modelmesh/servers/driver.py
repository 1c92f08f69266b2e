"""The interface that an adapter needs from a model server; each server has a driver for its own API."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from modelmesh.runtime.errors import RuntimeFault
from modelmesh.servers.layout import Given, Layout
from modelmesh.values.status import Status

READY_BOUND_S = 5.0
"""The time that a server has to answer that it is alive."""

LOAD_BOUND_S = 1800.0
"""For a server to load one model; the mesh gives up long before, and then the model is unloaded."""

UNLOAD_BOUND_S = 120.0
"""The time that a server has to unload one model; the mesh asks again after an error."""


class ServerError(RuntimeFault):
    """A server refused, or did not answer."""


class ServerAwayError(ServerError):
    """There is no answer where the server should be."""

    status = Status.UNAVAILABLE


class Driver(Protocol):
    """One server's API, and the layout of its models.

    Attributes:
        name: Of the server, for people.
        folder: Name of the folder of its models, below the models' root.
        texts: Names of a model's own configuration files.
        loads_one_version: Of a folder with a folder for each version, it loads one (`chosen_version`); else all of it.
        methods: Inference methods that the mesh may call, each with the path of the field that takes the model's id.
    """

    name: str
    folder: str
    texts: Sequence[str]
    loads_one_version: bool
    methods: Mapping[str, Sequence[int]]

    def layout(self, given: Given) -> Layout:
        """The files that the server wants. Pure.

        Raises:
            LoadError: INVALID_ARGUMENT: the model's files cannot be loaded by this server, and why.
        """
        ...

    async def ready(self) -> str:
        """The server's version, or an empty text, once it takes loads.

        Raises:
            ServerError: It does not; why.
        """
        ...

    async def leftovers(self, root: Path) -> list[str]:
        """Ids of models that the server may hold from before.

        Args:
            root: The folder of its models.
        """
        ...

    async def prepare(self, model_format: str, root: Path) -> None:
        """Have the server import what a format needs, so that the first model's size is its own. May do nothing."""
        ...

    async def load(self, model_id: str, folder: Path) -> None:
        """Load what is there in the folder; returns when the model answers.

        Raises:
            ServerError: The server does not load it; with its words.
        """
        ...

    async def unload(self, model_id: str, folder: Path) -> None:
        """Unload; returns when the server has released it. A model that it does not hold is a success."""
        ...

    async def holds(self, model_id: str) -> bool:
        """Whether the server has the model loaded, and could answer."""
        ...

    async def size(self, model_id: str) -> int | None:
        """Bytes that a loaded model takes, if the server or its processes show it exactly; else None."""
        ...

    async def memory(self) -> int | None:
        """Bytes that the whole server takes now; None where that cannot be seen."""
        ...

    async def close(self) -> None:
        """Give up connections."""
        ...
