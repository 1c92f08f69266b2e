"""MLServer: models in `model-settings.json`, loaded and unloaded by the repository extension over gRPC.

Source: spec/runtime-adapters.md 6; seen of MLServer 1.7.1: a load or unload re-reads every `model-settings.json` below the
root, on the event loop that also serves calls (0.6 s with 300 models). So a model's settings are put aside once it is
loaded. `ModelReady` of an unknown model is UNKNOWN.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from modelmesh.runtime.errors import LoadError
from modelmesh.servers.driver import ServerAwayError, ServerError
from modelmesh.servers.layout import Given, Layout, clipped, remove, write_layout
from modelmesh.servers.memory import ServerMemory
from modelmesh.servers.repository import SERVICE, Calls, Repository, because, load_fault
from modelmesh.values.status import Status

SETTINGS = "model-settings.json"
ASIDE = "model-settings.loaded.json"
"""Where the settings of a loaded model are: the server does not find them there, and a later adapter does."""

IMPLEMENTATIONS = {
    "sklearn": "mlserver_sklearn.SKLearnModel",
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "mllib": "mlserver_mllib.MLlibModel",
}

WELL_KNOWN = {
    "sklearn": ("model.joblib", "model.pickle", "model.pkl"),
    "xgboost": ("model.bst", "model.json", "model.ubj"),
    "lightgbm": ("model.bst",),
}
"""Names that the server finds by itself in a folder."""

_UNSAFE = re.compile(r"[?#;\x00-\x1f]")
"""MLServer reads a path as a URI, in which these end it."""

_BLAMED = frozenset({Status.INTERNAL, Status.UNKNOWN})
_PREPARE = ".prepare"
_METRICS_S = 2.0
_RESIDENT = re.compile(rb"^process_resident_memory_bytes ([0-9.e+]+)", re.MULTILINE)


class MLServer:
    """The driver.

    Args:
        port: Of its gRPC service.
        metrics_port: Of its metrics, from which its memory is read where its process cannot be seen.
    """

    name = "MLServer"
    folder = "_mlserver_models"
    texts: Sequence[str] = (SETTINGS,)
    loads_one_version = False
    methods: Mapping[str, Sequence[int]] = {
        f"{SERVICE}/ModelInfer": (1,),
        f"{SERVICE}/ModelMetadata": (1,),
        f"{SERVICE}/ModelReady": (1,),
    }

    def __init__(self, port: int, metrics_port: int = 8082) -> None:
        self._calls = Calls(self.name, port)
        self._repository = Repository(self._calls)
        self._memory = ServerMemory(port)
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"

    def layout(self, given: Given) -> Layout:
        """Links to the model's files, and its settings under its id."""
        return layout(given)

    async def ready(self) -> str:
        """Its version, once it answers.

        `ServerReady` answers whether all its models are ready: one that an earlier adapter left half loaded would prevent that.
        """
        if not await self._repository.server_live():
            raise ServerError("MLServer is not live yet", status=Status.UNAVAILABLE)
        return await self._repository.version()

    async def leftovers(self, root: Path) -> list[str]:
        """Models in its index, in any state, models whose settings were put aside, and what a preparation may have left."""
        listed = {one.name for one in await self._repository.index(ready=False)}
        prepared = {f"{_PREPARE}-{model_format}" for model_format in IMPLEMENTATIONS}
        return sorted(listed | prepared | await asyncio.to_thread(_put_aside, root))

    async def prepare(self, model_format: str, root: Path) -> None:
        """Have it import a format's package, by a load that cannot succeed."""
        implementation = IMPLEMENTATIONS.get(model_format)
        if implementation is None:
            return
        name = f"{_PREPARE}-{model_format}"
        # Not in the dot folder's own name: the server's search passes over those.
        folder = root / f"prepare-{model_format}%"
        settings = {"name": name, "implementation": implementation, "parameters": {"uri": f"{folder}/nothing"}}
        await asyncio.to_thread(write_layout, folder, Layout(files={SETTINGS: _json(settings)}))
        try:
            await self._repository.load(name)
        except ServerAwayError:
            raise
        except ServerError:
            pass  # as meant
        finally:
            await asyncio.to_thread(remove, folder)
        await self._unload(name)

    async def load(self, model_id: str, folder: Path) -> None:
        """Load, and put the settings aside."""
        await asyncio.to_thread(_restore, folder)
        try:
            await self._repository.load(model_id)
        except ServerAwayError as error:
            raise ServerError(because(f"model {model_id!r}", error), status=Status.UNAVAILABLE) from error
        except ServerError as error:
            if error.status is Status.NOT_FOUND:
                raise ServerError(
                    f"MLServer did not take the settings of model {model_id!r}; its log has the reason. Mostly it has no"
                    " implementation for the model's type, or the package of that is not installed there",
                    status=Status.FAILED_PRECONDITION,
                ) from error
            raise load_fault(f"model {model_id!r}", error, _BLAMED) from error
        if not await self._repository.model_ready(model_id):
            raise ServerError(
                f"MLServer loaded model {model_id!r}, and reports that it is not ready", status=Status.INTERNAL
            )
        await asyncio.to_thread(_set_aside, folder)

    async def unload(self, model_id: str, folder: Path) -> None:
        """Unload, and check that it is not listed any more."""
        del folder
        await self._unload(model_id)
        if await self._repository.model_ready(model_id):
            raise ServerError(f"MLServer still has model {model_id!r} after its unload", status=Status.INTERNAL)

    async def _unload(self, model_id: str) -> None:
        try:
            await self._repository.unload(model_id)
        except ServerError as error:
            # Older servers answer an unknown name with INVALID_ARGUMENT.
            if error.status not in {Status.NOT_FOUND, Status.INVALID_ARGUMENT}:
                raise

    async def holds(self, model_id: str) -> bool:
        """As it reports."""
        return await self._repository.model_ready(model_id)

    async def size(self, model_id: str) -> int | None:
        """It reports none."""
        del model_id
        return None

    async def memory(self) -> int | None:
        """Of its processes, if they are visible, else of the main one from its metrics."""
        seen = await asyncio.to_thread(self._memory.read)
        return seen if seen is not None else await self._told_memory()

    async def _told_memory(self) -> int | None:
        try:
            timeout = aiohttp.ClientTimeout(total=_METRICS_S)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self._metrics) as answer:
                found = _RESIDENT.search(await answer.content.read(4 * 1024 * 1024))
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        return int(float(found[1])) if found else None

    async def close(self) -> None:
        """Give up the connection."""
        await self._calls.close()


def layout(given: Given) -> Layout:
    """The files of a model. Source: spec/runtime-adapters.md 6.1."""
    if not given.model_id.isascii() or not given.model_id.isprintable():
        # It returns a call's metadata with the answer, and fails where that is not ASCII.
        raise LoadError(f"MLServer cannot answer calls for model {given.model_id!r}: the id must be printable ASCII")
    native = given.tree.texts.get(SETTINGS)
    return _native(given, native) if native is not None else _generated(given)


def _generated(given: Given) -> Layout:
    tree = given.tree
    link = _UNSAFE.sub("_", tree.name)
    link = f"_{link}" if link in {SETTINGS, ASIDE} else link
    settings: dict[str, Any] = {"name": given.model_id, "parameters": {"uri": f"{given.folder}/{link}"}}
    implementation = IMPLEMENTATIONS.get(given.format)
    if implementation is not None:
        settings["implementation"] = implementation
    only = _only_file(given)
    if only is not None:
        settings["parameters"]["uri"] += f"/{only}"
    return Layout({link: tree.path}, {SETTINGS: _json(_with_schema(settings, given))})


def _only_file(given: Given) -> str | None:
    """The one file of a folder whose name the server would not find by itself."""
    names = given.tree.entries()
    if given.tree.is_file or given.format not in WELL_KNOWN or len(names) != 1 or names[0] not in given.tree.files:
        return None
    return names[0] if names[0] not in WELL_KNOWN[given.format] and not _UNSAFE.search(names[0]) else None


def _native(given: Given, text: bytes) -> Layout:
    where = given.tree.at(SETTINGS)
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{where} is no JSON: {error}") from None
    if not isinstance(settings, dict):
        raise LoadError(f"{where} must be an object")
    parameters = settings.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise LoadError(f"{where}: parameters must be an object")
    settings["name"] = given.model_id
    if parameters and parameters.get("uri") is not None:
        if not isinstance(parameters["uri"], str):
            raise LoadError(f"{where}: parameters.uri must be a text")
        inside = clipped(parameters["uri"])
        settings["parameters"] = {**parameters, "uri": f"{given.folder}/{inside}" if inside else given.folder}
    links = {name: given.tree.at(name) for name in given.tree.entries() if name not in {SETTINGS, ASIDE}}
    return Layout(links, {SETTINGS: _json(_with_schema(settings, given))})


def _with_schema(settings: dict[str, Any], given: Given) -> dict[str, Any]:
    schema = given.schema
    if schema is None:
        return settings
    for side, tensors in (("inputs", schema.inputs), ("outputs", schema.outputs)):
        if tensors is not None:
            settings[side] = [tensor.as_json() for tensor in tensors]
    return settings


def _json(settings: Mapping[str, Any]) -> bytes:
    return json.dumps(settings, indent=2, sort_keys=True).encode()


def _set_aside(folder: Path) -> None:
    (folder / SETTINGS).rename(folder / ASIDE)


def _restore(folder: Path) -> None:
    aside = folder / ASIDE
    if aside.exists() and not aside.is_symlink():
        aside.rename(folder / SETTINGS)


def _put_aside(root: Path) -> set[str]:
    found = set()
    for path in root.glob(f"*/{ASIDE}"):
        try:
            name = json.loads(path.read_bytes()).get("name")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(name, str):
            found.add(name)
    return found
