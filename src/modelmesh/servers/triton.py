"""Triton: a repository folder for each model, loaded and unloaded under explicit control over gRPC.

Source: spec/runtime-adapters.md 5; seen of Triton 24.10: an unload is answered before the model has left, its state is then
UNLOADING, and a Python model's process lives on for a second or two.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelmesh.runtime.errors import LoadError
from modelmesh.servers.driver import UNLOAD_BOUND_S, ServerError
from modelmesh.servers.layout import Given, Layout
from modelmesh.servers.memory import ServerMemory, command_line, descendants, resident_tree, started
from modelmesh.servers.names import is_plain
from modelmesh.servers.pbtxt import PbtxtError, fields_of, quoted
from modelmesh.servers.repository import SERVICE, Calls, Repository, load_errors
from modelmesh.servers.schema import Schema, Tensor
from modelmesh.servers.versions import chosen_version
from modelmesh.values.status import Status

CONFIG = "config.pbtxt"
SCHEMA_FILE = "_schema.json"
"""A schema of old inside a model's folder: no part of the model."""

LEAVING_S = 0.02
"""Between two looks at a model that is leaving."""

BACKENDS = {
    "tensorflow": "tensorflow",
    "keras": "tensorflow",
    "onnx": "onnxruntime",
    "tensorrt": "tensorrt",
    "pytorch": "pytorch",
}

_FOLDER_NAMES = {"tensorflow": "model.savedmodel", "keras": "model.savedmodel", "onnx": "model.onnx"}
"""Below the version; formats that are not here are the version's folder itself."""

_FILE_NAMES = {"tensorflow": "model.graphdef", "onnx": "model.onnx", "tensorrt": "model.plan", "pytorch": "model.pt"}
_NUMBER = re.compile(r"\d+")


class Triton:
    """The driver.

    Args:
        port: Of its gRPC service.
    """

    name = "Triton"
    folder = "_triton_models"
    texts: Sequence[str] = (CONFIG,)
    loads_one_version = True
    methods: Mapping[str, Sequence[int]] = {
        f"{SERVICE}/ModelInfer": (1,),
        f"{SERVICE}/ModelMetadata": (1,),
        f"{SERVICE}/ModelReady": (1,),
    }

    def __init__(self, port: int) -> None:
        self._calls = Calls(self.name, port)
        self._repository = Repository(self._calls)
        self._memory = ServerMemory(port)
        self._processes: dict[str, dict[int, int | None]] = {}
        """A model's own processes, and when each began."""

    def layout(self, given: Given) -> Layout:
        """A version folder with the model's files, and its configuration."""
        return layout(given)

    async def ready(self) -> str:
        """Its version, once it is live; `ServerReady` may wait for models."""
        if not await self._repository.server_live():
            raise ServerError("Triton is not live yet", status=Status.UNAVAILABLE)
        return await self._repository.version()

    async def leftovers(self, root: Path) -> list[str]:
        """What its index lists as loaded."""
        del root
        return sorted({one.name for one in await self._repository.index(ready=True)})

    async def prepare(self, model_format: str, root: Path) -> None:
        """Nothing: backends are libraries, and Python models processes of their own."""

    async def load(self, model_id: str, folder: Path) -> None:
        """Load; the answer comes when it is loaded."""
        with load_errors(model_id):
            await self._repository.load(model_id)
        self._processes[model_id] = await asyncio.to_thread(self._own_processes, folder)

    async def unload(self, model_id: str, folder: Path) -> None:
        """Unload, and wait until it has left, its processes too."""
        processes = self._processes.get(model_id)
        if processes is None:
            processes = await asyncio.to_thread(self._own_processes, folder)
        try:
            await self._repository.unload(model_id)
        except ServerError as error:
            if error.status is not Status.NOT_FOUND:
                raise
        deadline = asyncio.get_running_loop().time() + UNLOAD_BOUND_S
        while await self._is_there(model_id, processes):
            if asyncio.get_running_loop().time() > deadline:
                raise ServerError(f"Triton still has model {model_id!r} after its unload", status=Status.INTERNAL)
            await asyncio.sleep(LEAVING_S)
        self._processes.pop(model_id, None)

    async def _is_there(self, model_id: str, processes: Mapping[int, int | None]) -> bool:
        index = await self._repository.index(ready=False)
        listed = any(one.name == model_id and one.state in {"READY", "LOADING", "UNLOADING"} for one in index)
        return listed or any(began is not None and started(process) == began for process, began in processes.items())

    async def holds(self, model_id: str) -> bool:
        """As it reports."""
        return await self._repository.model_ready(model_id)

    async def size(self, model_id: str) -> int | None:
        """Of a model with processes of its own, what these take."""
        processes = self._processes.get(model_id)
        if not processes:
            return None
        return await asyncio.to_thread(lambda: sum(resident_tree(process) or 0 for process in processes))

    async def memory(self) -> int | None:
        """Of its process tree."""
        return await asyncio.to_thread(self._memory.read)

    async def close(self) -> None:
        """Give up the connection."""
        await self._calls.close()

    def _own_processes(self, folder: Path) -> dict[int, int | None]:
        """Processes of the server that were started for files in a folder."""
        server = self._memory.process()
        if server is None:
            return {}
        own = f"{folder}/".encode()
        found = [process for process in descendants(server) if any(own in word for word in command_line(process))]
        return {process: started(process) for process in found}


def layout(given: Given) -> Layout:
    """The files of a model. Source: spec/runtime-adapters.md 5."""
    if not is_plain(given.model_id):
        raise LoadError(
            f"Triton cannot hold model {given.model_id!r}: it names models by their folders, so an id must be made of"
            " letters, digits, ., _ and -, begin with a letter or digit, and have at most 200 characters"
        )
    tree = given.tree
    if tree.is_file:
        if given.format == "keras":
            raise LoadError(
                f"{tree.path}: Keras files are not converted here; save the model as a TensorFlow SavedModel"
                " (model.export) and register that folder with type tensorflow"
            )
        return _with_config(given, {f"1/{_FILE_NAMES.get(given.format, tree.name)}": tree.path})
    if CONFIG in tree.files:
        return _native(given)
    return _generated(given)


def _generated(given: Given) -> Layout:
    tree = given.tree
    version, base = chosen_version(tree)
    names = [name for name in tree.entries(base) if name != SCHEMA_FILE]
    if len(names) == 1 and given.format in BACKENDS:
        base = f"{base}/{names[0]}" if base else names[0]
    if base in tree.files:
        return _with_config(
            given, {f"{version}/{_FILE_NAMES.get(given.format, base.rpartition('/')[2])}": tree.at(base)}
        )
    name = _FOLDER_NAMES.get(given.format)
    return _with_config(given, {f"{version}/{name}" if name else version: tree.at(base)})


def _with_config(given: Given, links: Mapping[str, str]) -> Layout:
    if given.schema is None:
        return Layout(links)
    lines = [f"backend: {quoted(BACKENDS[given.format])}"] if given.format in BACKENDS else []
    lines += _tensors(given.schema)
    return Layout(links, {CONFIG: ("\n".join(lines) + "\n").encode() if lines else b""})


def _native(given: Given) -> Layout:
    tree = given.tree
    links = {name: tree.at(name) for name in tree.entries() if name != CONFIG}
    where = tree.at(CONFIG)
    try:
        fields = [field for field in fields_of(tree.texts[CONFIG].decode()) if field.name != "name"]
    except (PbtxtError, UnicodeDecodeError) as error:
        raise LoadError(f"{where} is no model configuration: {error}") from None
    schema = given.schema
    if schema is not None:
        batched = any(
            _NUMBER.fullmatch(field.value) and int(field.value) > 0
            for field in fields
            if field.name == "max_batch_size"
        )
        schema = _unbatched(schema, where) if batched else schema
        replaced = {"input": schema.inputs is not None, "output": schema.outputs is not None}
        fields = [field for field in fields if not replaced.get(field.name, False)]
    lines = [field.text for field in fields] + ([] if schema is None else _tensors(schema))
    return Layout(links, {CONFIG: ("\n".join(lines) + "\n").encode()})


def _unbatched(schema: Schema, where: str) -> Schema:
    def without(tensors: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        if tensors is None:
            return None
        for tensor in tensors:
            if tensor.shape[:1] != (-1,):
                raise LoadError(
                    f"{where} has max_batch_size, so the schema's shape of {tensor.name!r} must begin with -1, the batch;"
                    f" it is {list(tensor.shape)}"
                )
        return tuple(Tensor(tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in tensors)

    return Schema(without(schema.inputs), without(schema.outputs))


def _tensors(schema: Schema) -> list[str]:
    sides = (("input", schema.inputs or ()), ("output", schema.outputs or ()))
    return [_tensor(side, tensor) for side, tensors in sides for tensor in tensors]


def _tensor(side: str, tensor: Tensor) -> str:
    datatype = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    dims = "".join(f"\n  dims: {size}" for size in tensor.shape)
    return f"{side} {{\n  name: {quoted(tensor.name)}\n  data_type: TYPE_{datatype}{dims}\n}}"
