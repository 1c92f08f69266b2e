"""The puller's settings: the environment that its container always had. Source: spec/runtime-adapters.md 2.1."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelmesh.servers.settings import SettingsError, Variables

CACHE_FOLDER = "_modelmesh_cache"
"""In the folder of models, so that links to it lead somewhere in every container that has the volume."""


@dataclass(frozen=True, slots=True)
class PullerSettings:
    """The settings of a puller.

    Attributes:
        port: Of our own service; loopback only.
        runtime: Address of the runtime, as gRPC wants it.
        root: Of models' files.
        storage_configs, claims: Folders of storage configurations and of mounted claims.
        cache_bytes: Of all pulled files; None: only files of loaded models are kept.
        cache: Folder of the disk cache.
        metrics_port: Of `/metrics`, `/live` and `/ready`, for everybody; 0: none.
        factor: Memory that a model is predicted to take, to each byte on disk.
        plain_logs: Log lines for people; else JSON.
    """

    port: int
    runtime: str
    root: Path
    storage_configs: Path
    claims: Path
    cache_bytes: int | None
    cache: Path
    metrics_port: int
    factor: float
    plain_logs: bool


def read_settings(environment: Mapping[str, str]) -> PullerSettings:
    """Read the environment.

    Raises:
        SettingsError: A value makes no sense.
    """
    read = Variables(environment)
    root = Path(read.text("ROOT_MODEL_DIR", "/models"))
    cache = read.text("MODEL_CACHE_DIR", "")
    factor = read.real("MODELSIZE_MULTIPLIER", 1.25)
    if factor <= 0:
        raise SettingsError(f"MODELSIZE_MULTIPLIER is {factor}; it must be above 0")
    return PullerSettings(
        port=read.number("PORT", 8084, least=0, most=65535),
        runtime=_endpoint(read.text("MODEL_SERVER_ENDPOINT", "port:8085")),
        root=root,
        storage_configs=Path(read.text("STORAGE_CONFIG_DIR", "/storage-config")),
        claims=Path(read.text("PVC_MOUNTS_DIR", "/pvc_mounts")),
        cache_bytes=read.number("MODEL_CACHE_BYTES", 0, least=0) if "MODEL_CACHE_BYTES" in environment else None,
        cache=Path(cache) if cache else root / CACHE_FOLDER,
        metrics_port=read.number("METRICS_PORT", 0, least=0, most=65535),
        factor=factor,
        plain_logs=read.text("LOG_LEVEL", "debug").lower() == "debug",
    )


def _endpoint(text: str) -> str:
    """`port:N` is a port of this machine, what begins with `unix:` is a socket; nothing else is possible."""
    kind, _, rest = text.partition(":")
    if kind == "unix":
        return text
    if kind == "port" and rest.isascii() and rest.isdecimal() and 0 < int(rest) <= 65535:
        return f"127.0.0.1:{rest}"
    raise SettingsError(f"MODEL_SERVER_ENDPOINT is {text!r}; write port:8085 or unix:/path/to/socket")
