"""Endpoints of a runtime: a port, or a socket in a folder that containers share."""

from dataclasses import dataclass
from pathlib import PurePosixPath

SOCKETS = "domain-socket"
"""Volume in which sockets are."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a container listens: one of the two."""

    port: str = ""
    socket: str = ""

    @property
    def folder(self) -> str:
        """Where the volume of sockets is mounted; empty for a port."""
        return str(PurePosixPath(self.socket).parent) if self.socket else ""


def parse_endpoint(text: str) -> Endpoint | None:
    """`port:N` or `unix:PATH`; None for an empty text."""
    if not text:
        return None
    if text.startswith("port:"):
        return Endpoint(port=text.removeprefix("port:"))
    return Endpoint(socket=text.removeprefix("unix:").removeprefix("//"))


def socket_folder(*texts: str) -> str:
    """The folder of the first endpoint that is a socket; empty if none is."""
    endpoints = [parse_endpoint(text) for text in texts]
    return next((endpoint.folder for endpoint in endpoints if endpoint and endpoint.socket), "")
