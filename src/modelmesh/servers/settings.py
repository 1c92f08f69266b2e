"""An adapter's settings: the environment that a ServingRuntime's container has. Source: spec/runtime-adapters.md 2.1 and 4.1."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class SettingsError(ValueError):
    """A variable makes no sense; the message names it."""


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """What an adapter is told.

    Attributes:
        port: Of our own service; loopback only.
        server_port: Of the server's control API.
        data_endpoint: Of the server's inference, as `port:N` or `unix:PATH`; empty: the control API's.
        capacity_bytes: For models: the server's memory without the buffer.
        concurrency_limit: Calls that one model takes at once; 0: no limit.
        root: Of models' files.
        pulls: Whether the adapter brings files itself.
        storage_configs: Folder of storage configurations.
        claims: Folder of mounted claims.
        cache: Folder of the disk cache.
        cache_bytes: What it may take.
    """

    port: int
    server_port: int
    data_endpoint: str
    capacity_bytes: int
    loading_concurrency: int
    load_timeout_ms: int
    default_size_bytes: int
    factor: float
    version: str
    concurrency_limit: int
    root: Path
    pulls: bool
    storage_configs: Path
    claims: Path
    cache: Path
    cache_bytes: int


def read_settings(environment: Mapping[str, str], *, server_port: int = 8001, factor: float = 1.25) -> AdapterSettings:
    """Read the environment.

    Args:
        environment: Variables. As ever, one that is set but empty is empty, and no number.
        server_port: The server's default.
        factor: The server's default.

    Raises:
        SettingsError: A value makes no sense.
    """
    read = Variables(environment)
    memory_bytes = read.number("CONTAINER_MEM_REQ_BYTES", -1, least=-1)
    buffer_bytes = read.number("MEM_BUFFER_BYTES", 256 * MIB, least=0)
    if memory_bytes < 0:
        raise SettingsError("CONTAINER_MEM_REQ_BYTES is not set: the memory of the server's container, in bytes")
    if memory_bytes <= buffer_bytes:
        raise SettingsError(
            f"CONTAINER_MEM_REQ_BYTES ({memory_bytes}) leaves no room for models beside MEM_BUFFER_BYTES"
            f" ({buffer_bytes}): give the server more memory, or lower the buffer"
        )
    multiplier = read.real("MODELSIZE_MULTIPLIER", factor)
    if multiplier <= 0:
        raise SettingsError(f"MODELSIZE_MULTIPLIER is {multiplier}; it must be above 0")
    root = Path(read.text("ROOT_MODEL_DIR", "/models"))
    return AdapterSettings(
        port=read.number("ADAPTER_PORT", 8085, least=0, most=65535),
        server_port=read.number("RUNTIME_PORT", server_port, least=1, most=65535),
        data_endpoint=read.text("RUNTIME_DATA_ENDPOINT", ""),
        capacity_bytes=memory_bytes - buffer_bytes,
        loading_concurrency=read.number("LOADING_CONCURRENCY", 1, least=1, most=1000),
        load_timeout_ms=read.number("LOADTIME_TIMEOUT", 30_000, least=100, most=2**31 - 1),
        default_size_bytes=read.number("DEFAULT_MODELSIZE", 1_000_000, least=1),
        factor=multiplier,
        version=read.text("RUNTIME_VERSION", "v1"),
        concurrency_limit=read.number("LIMIT_PER_MODEL_CONCURRENCY", 0, least=0, most=1_000_000),
        root=root,
        pulls=read.flag("USE_EMBEDDED_PULLER", default=False),
        storage_configs=Path(read.text("STORAGE_CONFIG_DIR", "/storage-config")),
        claims=Path(read.text("PVC_MOUNTS_DIR", "/pvc_mounts")),
        # Beside the models, so that links into it lead somewhere in the server's container too; below the volume's limit,
        # which is half as much again as the memory.
        cache=Path(read.text("MODEL_CACHE_DIR", str(root / "_cache"))),
        cache_bytes=read.number("MODEL_CACHE_BYTES", memory_bytes * 5 // 4, least=1),
    )


class Variables:
    """Typed reading of an environment, as Go's parsers read it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str, default: str) -> str:
        """A text."""
        return self._environment.get(name, default)

    def number(self, name: str, default: int, *, least: int, most: int = 2**63 - 1) -> int:
        """A whole number within bounds."""
        text = self._environment.get(name)
        if text is None:
            return default
        try:
            value = int(text, 10) if text == text.strip() and "_" not in text else None
        except ValueError:
            value = None
        if value is None:
            raise SettingsError(f"{name} is {text!r}, which is no whole number")
        if not least <= value <= most:
            raise SettingsError(f"{name} is {value}; possible are {least} to {most}")
        return value

    def real(self, name: str, default: float) -> float:
        """A number."""
        text = self._environment.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(f"{name} is {text!r}, which is no number") from None
        if not value < float("inf"):
            raise SettingsError(f"{name} is {text!r}, which is no finite number")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """A truth."""
        text = self._environment.get(name)
        if text is None:
            return default
        if text not in _TRUE | _FALSE:
            raise SettingsError(f"{name} is {text!r}, which is neither true nor false")
        return text in _TRUE

    def seconds(self, name: str, default: float) -> float:
        """A duration as Go writes it (`100ms`, `3s`, `1m30s`), in seconds."""
        text = self._environment.get(name)
        if text is None:
            return default
        units = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
        rest, total = text, 0.0
        while rest:
            digits = len(rest) - len(rest.lstrip("0123456789."))
            unit = next((one for one in sorted(units, key=len, reverse=True) if rest[digits:].startswith(one)), None)
            if not digits or unit is None or rest[:digits].count(".") > 1 or rest[:digits] == ".":
                raise SettingsError(f"{name} is {text!r}, which is no duration like 100ms or 3s")
            total += float(rest[:digits]) * units[unit]
            rest = rest[digits + len(unit) :]
        if not text:
            raise SettingsError(f"{name} is empty, which is no duration like 100ms or 3s")
        return total
