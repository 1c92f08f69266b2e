"""A ServingRuntime on a machine without containers: which processes it needs, and how each is started.

The shipped runtimes are the YAML files in `runtimes/`; what starts a server here is the annotation
`modelmesh.io/local-command`. An adapter comes with a server that needs one.
"""

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from modelmesh.declared import Declared, Document, Runtime, Wanted, declare, read_documents
from modelmesh.declared.runtimes import LOCAL_COMMAND
from modelmesh.storage import DEFAULT_CACHE_BYTES, default_cache_folder, storage_variables

OWN = "modelmesh-1.x"
"""The runtime of this package: taken for a model that several could take, if the files declare none of them."""

BUFFER_BYTES = 128 * 1024 * 1024
LONGEST_LOAD_MS = 90_000
TRUST = "{trust}"


class LocalRuntimeError(Exception):
    """A runtime cannot be started here; the message has the reason and the next step."""


def shipped_runtimes() -> tuple[Runtime, ...]:
    """The runtimes that are known without being declared."""
    documents: list[Document] = []
    for file in sorted(files("modelmesh.instance").joinpath("runtimes").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".yaml") and file.name != "kustomization.yaml":
            found, problems = read_documents(file.name, file.read_text(encoding="utf-8"))
            assert not problems, problems
            documents.extend(found)
    declared = declare(documents)
    assert not declared.problems, declared.problems
    return declared.runtimes


def wanted_runtimes(declared: Declared, known: Iterable[Runtime]) -> list[Runtime]:
    """The runtimes to start: those that the files declare, and for models that none of these takes, shipped ones.

    Raises:
        LocalRuntimeError: A model has no runtime.
    """
    shipped = {runtime.name: runtime for runtime in known}
    chosen = {runtime.name: runtime for runtime in declared.runtimes if runtime.serves}
    for wanted in declared.wanted:
        names = wanted.choice.runtimes
        if not names:
            raise LocalRuntimeError(f"{wanted.source}: {wanted.resource}: {wanted.choice.why}")
        if not any(name in chosen for name in names):
            name = OWN if OWN in names else names[0]
            chosen[name] = shipped[name]
    return list(chosen.values())


def constraints(runtimes: Iterable[Runtime]) -> dict[str, dict[str, list[str]]]:
    """Which labels each model type requires; types without a runtime require one that no instance has."""
    found = {kind: {"required": labels} for runtime in runtimes for kind, labels in runtime.constraints().items()}
    return {**found, "_default": {"required": ["_no_runtime"]}}


def local_path(wanted: Wanted, folder: Path) -> str:
    """The path that a model is registered with: one that names no storage lies beside the manifest."""
    spec = wanted.spec
    storage = spec.storage
    path = spec.model_path
    if not path or "://" in path or storage is None or storage.key or storage.parameters or storage.s3_secret_key:
        return path
    return (folder / path).absolute().as_uri()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes for models, and of a model of unknown size."""

    capacity_bytes: int
    default_bytes: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where one instance's runtime runs.

    Attributes:
        folder: For its models.
        grpc_port, http_port, metrics_port: Free ones for its server.
    """

    folder: Path
    grpc_port: int
    http_port: int
    metrics_port: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The processes of one runtime.

    Attributes:
        runtime: Listen address to the command that serves `mmesh.ModelRuntime` there.
        runtime_environment: Of it.
        server: The foreign server beside it, and its environment; None: there is none.
        data_port: Where the server answers inference; None: where the runtime listens.
    """

    runtime: Callable[[str], Sequence[str]]
    runtime_environment: Mapping[str, str] = field(default_factory=dict)
    server: tuple[Sequence[str], Mapping[str, str]] | None = None
    data_port: int | None = None


def parts(
    runtime: Runtime,
    place: Place,
    limits: Limits,
    *,
    models: Path,
    storage_configs: Path | None = None,
    trust: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    which: Callable[[str], str | None] = shutil.which,
) -> Parts:
    """How a runtime is started here.

    Args:
        runtime: As it is declared.
        place: Its folder and ports.
        limits: Of its memory.
        models: Folder that models on this machine may lie in.
        storage_configs: Folder of storage configurations.
        trust: Patterns of locations whose files may run code in a runtime that asks (`{trust}` in its command).
        environment: Where credentials of stores are found, and the disk cache, which all runtimes here share.
        which: Finds a program.

    Raises:
        LocalRuntimeError: It has no command, or its program is not here.
    """
    command = _command(runtime, which)
    words = {
        "python": sys.executable,
        "folder": str(place.folder),
        "models": str(models),
        "capacity": str(limits.capacity_bytes),
        "default_size": str(limits.default_bytes),
        "grpc_port": str(place.grpc_port),
        "http_port": str(place.http_port),
        "metrics_port": str(place.metrics_port),
    }
    around = environment or {}
    cache = default_cache_folder(around)
    pulling = {name: around[name] for name in storage_variables(around)} | {"MODELMESH_CACHE": str(cache)}
    if storage_configs is not None:
        pulling["STORAGE_CONFIG_DIR"] = str(storage_configs)
    adapter = runtime.adapter
    if adapter is None:
        return Parts(lambda listen: _filled(runtime, command, {**words, "listen": listen}, trust), pulling)
    server_environment = _server_environment(runtime, place)
    own = {
        "STORAGE_CONFIG_DIR": str(place.folder / "_no_configs"),
        **pulling,
        "RUNTIME_PORT": str(place.grpc_port),
        "RUNTIME_DATA_ENDPOINT": f"port:{place.grpc_port}",
        "CONTAINER_MEM_REQ_BYTES": str(limits.capacity_bytes + BUFFER_BYTES),
        "MEM_BUFFER_BYTES": str(BUFFER_BYTES),
        "DEFAULT_MODELSIZE": str(limits.default_bytes),
        "LOADTIME_TIMEOUT": str(adapter.load_timeout_ms or LONGEST_LOAD_MS),
        "LOADING_CONCURRENCY": runtime.annotations.get("maxLoadingConcurrency", "1"),
        "LIMIT_PER_MODEL_CONCURRENCY": runtime.annotations.get("perModelConcurrencyLimit", "0"),
        "ROOT_MODEL_DIR": str(place.folder),
        "USE_EMBEDDED_PULLER": "true",
        "MODEL_CACHE_DIR": str(cache),
        "MODEL_CACHE_BYTES": str(DEFAULT_CACHE_BYTES),
        "MLSERVER_METRICS_PORT": str(place.metrics_port),
        **adapter.environment,
    }
    adapter_command = [sys.executable, "-m", "modelmesh.cli", "adapter", adapter.server_type]
    return Parts(
        lambda listen: [*adapter_command, "--listen", listen, "--models", str(models)],
        own,
        (_filled(runtime, command, words), server_environment),
        place.grpc_port,
    )


def _command(runtime: Runtime, which: Callable[[str], str | None]) -> list[str]:
    text = runtime.annotations.get(LOCAL_COMMAND)
    if not text:
        raise LocalRuntimeError(
            f"{runtime.source}: runtime {runtime.name} has no command for this machine; set one in its annotation"
            f" {LOCAL_COMMAND}"
        )
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise LocalRuntimeError(f"{runtime.source}: {LOCAL_COMMAND} of {runtime.name}: {error}") from None
    if words and not words[0].startswith("{") and which(words[0]) is None:
        raise LocalRuntimeError(
            f"{runtime.source}: runtime {runtime.name} needs {words[0]}, which is not on this machine; install it, or"
            f" name another in the annotation {LOCAL_COMMAND}"
        )
    return words


def _filled(runtime: Runtime, command: Sequence[str], words: Mapping[str, str], trust: Sequence[str] = ()) -> list[str]:
    """The command with its words filled in; `{trust}` becomes an option for each pattern."""
    found: list[str] = []
    for word in command:
        if word == TRUST:
            found += [part for pattern in trust for part in ("--trust", pattern)]
            continue
        try:
            found.append(word.format_map(words))
        except (KeyError, ValueError, IndexError) as error:
            raise LocalRuntimeError(
                f"{runtime.source}: {LOCAL_COMMAND} of {runtime.name}: {error} is none of {', '.join(words)}"
            ) from None
    return found


def _server_environment(runtime: Runtime, place: Place) -> dict[str, str]:
    """The container's variables, its ports and folders those of this place."""
    assert runtime.adapter is not None
    found: dict[str, str] = {}
    for container in runtime.body.get("containers") or []:
        if container.get("name") == runtime.adapter.server_type:
            found = {
                entry["name"]: str(entry.get("value") or "") for entry in container.get("env") or [] if "name" in entry
            }
    if runtime.adapter.server_type == "mlserver":
        found |= {
            "MLSERVER_MODELS_DIR": f"{place.folder}/_mlserver_models",
            "MLSERVER_GRPC_PORT": str(place.grpc_port),
            "MLSERVER_HTTP_PORT": str(place.http_port),
            "MLSERVER_METRICS_PORT": str(place.metrics_port),
            "MLSERVER_METRICS_DIR": f"{place.folder}/_metrics",
            "MLSERVER_ENVIRONMENTS_DIR": f"{place.folder}/_environments",
            "MLSERVER_HOST": "127.0.0.1",
        }
    return found
