"""TorchServe: archives (`.mar`), registered and unregistered over its management service (gRPC).

Source: spec/runtime-adapters.md 8; seen of TorchServe 0.12: each model has worker processes of its own, whose numbers its
description tells at once and whose memory only with the next metrics; unregistering is answered before they have ended; a name
that is registered already is refused without words.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelmesh._proto import torchserve_management_pb2 as pb
from modelmesh.runtime.errors import LoadError
from modelmesh.servers.driver import LOAD_BOUND_S, READY_BOUND_S, UNLOAD_BOUND_S, ServerError
from modelmesh.servers.layout import Given, Layout, remove
from modelmesh.servers.memory import ServerMemory, descendants, resident_tree, started
from modelmesh.servers.repository import Calls, load_errors
from modelmesh.values.status import Status

ARCHIVE = "model.mar"
CONFIG = "mmconfig.properties"
"""Below the model store. The server's container waits for it, and is started with it."""

METRICS_S = 2
"""Between two of the server's readings of its workers' memory; its own default is 60."""

TELLING_S = 3.0 * METRICS_S
"""For a worker's memory to be usages, where its process cannot be seen."""

LOOK_S = 0.02
"""Between two looks at a model that is leaving."""

PAGE = 500

_SERVICE = "org.pytorch.serve.grpc.management.ManagementAPIsService"
_INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
_OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"


class TorchServe:
    """The driver.

    Args:
        port: Of its management service.
        store: Its model store; the configuration that the server waits for is written there.
        workers: Processes of each model.
        batch_size: Requests that a worker takes at once; 0: as the archive says.
        batch_delay_ms: How long a worker waits for a batch to fill; 0: as the archive says.
    """

    name = "TorchServe"
    folder = "_torchserve_models"
    texts: Sequence[str] = ()
    loads_one_version = False
    methods: Mapping[str, Sequence[int]] = {
        f"{_INFERENCE}/Predictions": (1,),
        f"{_INFERENCE}/StreamPredictions": (1,),
        f"{_OPEN_INFERENCE}/ModelInfer": (1,),
        f"{_OPEN_INFERENCE}/ModelMetadata": (1,),
        f"{_OPEN_INFERENCE}/ModelReady": (1,),
    }

    def __init__(
        self, port: int, store: Path, *, workers: int = 1, batch_size: int = 0, batch_delay_ms: int = 0
    ) -> None:
        self._calls = Calls(self.name, port)
        self._store = store
        self._workers = workers
        self._batch_size = batch_size
        self._batch_delay_ms = batch_delay_ms
        self._memory = ServerMemory(port)
        self._processes: dict[str, dict[int, int | None]] = {}
        """A model's workers, and when each began."""
        self._write()

    def layout(self, given: Given) -> Layout:
        """One link to the archive."""
        return layout(given)

    async def ready(self) -> str:
        """Whether it lists models; it reports no version. A server that starts again waits for its configuration."""
        if not (self._store / CONFIG).exists():
            await asyncio.to_thread(self._write)
        await self._call("ListModels", pb.ListModelsRequest(limit=1), READY_BOUND_S)
        return ""

    async def leftovers(self, root: Path) -> list[str]:
        """What it lists."""
        del root
        found: list[str] = []
        token = 0
        while True:
            answer = await self._call(
                "ListModels", pb.ListModelsRequest(limit=PAGE, next_page_token=token), READY_BOUND_S
            )
            page = _object(answer)
            found += [str(one.get("modelName")) for one in page.get("models") or () if isinstance(one, dict)]
            following = page.get("nextPageToken")
            if not following or not str(following).isdigit() or int(following) <= token:
                return sorted(set(found))
            token = int(following)

    async def prepare(self, model_format: str, root: Path) -> None:
        """Nothing: each model has processes of its own."""

    async def load(self, model_id: str, folder: Path) -> None:
        """Register, and wait for its workers."""
        request = pb.RegisterModelRequest(
            model_name=model_id,
            url=_place(folder).name,
            synchronous=True,
            initial_workers=self._workers,
            batch_size=self._batch_size,
            max_batch_delay=self._batch_delay_ms,
        )
        with load_errors(model_id):
            if await self._workers_of(model_id):  # of a load whose answer was lost: it may be another archive
                await self.unload(model_id, folder)
            await asyncio.to_thread(_link, folder)
            await self._call("RegisterModel", request, LOAD_BOUND_S)
        self._processes[model_id] = {
            process: started(process) for process in map(_process, await self._workers_of(model_id)) if process
        }

    async def unload(self, model_id: str, folder: Path) -> None:
        """Unregister, and wait until its workers have ended."""
        processes = self._processes.get(model_id)
        if processes is None:
            found = map(_process, await self._workers_of(model_id))
            processes = {process: started(process) for process in found if process}
        try:
            await self._call("UnregisterModel", pb.UnregisterModelRequest(model_name=model_id), UNLOAD_BOUND_S)
        except ServerError as error:
            if error.status is not Status.NOT_FOUND:
                raise
        deadline = asyncio.get_running_loop().time() + UNLOAD_BOUND_S
        while await asyncio.to_thread(self._own, processes):
            if asyncio.get_running_loop().time() > deadline:
                raise ServerError(f"{self.name} still has workers of model {model_id!r}", status=Status.INTERNAL)
            await asyncio.sleep(LOOK_S)
        self._processes.pop(model_id, None)
        await asyncio.to_thread(remove, _place(folder))

    async def holds(self, model_id: str) -> bool:
        """Whether a worker of it is ready."""
        return any(worker.get("status") == "READY" for worker in await self._workers_of(model_id))

    async def size(self, model_id: str) -> int | None:
        """What its workers take: as the kernel counts it, or as the server reports it later."""
        own = await asyncio.to_thread(self._own, self._processes.get(model_id) or {})
        if own:
            return await asyncio.to_thread(lambda: sum(resident_tree(process) or 0 for process in own))
        deadline = asyncio.get_running_loop().time() + TELLING_S
        while True:
            usages = [worker.get("memoryUsage") for worker in await self._workers_of(model_id)]
            if usages and all(isinstance(one, int) and one > 0 for one in usages):
                return sum(one for one in usages if isinstance(one, int))
            if not usages or asyncio.get_running_loop().time() > deadline:
                return None
            await asyncio.sleep(METRICS_S / 4)

    async def memory(self) -> int | None:
        """Of its process tree."""
        return await asyncio.to_thread(self._memory.read)

    async def close(self) -> None:
        """Give up the connection."""
        await self._calls.close()

    def _own(self, processes: Mapping[int, int | None]) -> list[int]:
        """Those that still run, and are the server's: in another container the same numbers are other processes."""
        server = self._memory.process()
        below = set(descendants(server)) if server is not None else set()
        return [process for process, began in processes.items() if process in below and started(process) == began]

    async def _workers_of(self, model_id: str) -> list[Mapping[str, Any]]:
        """As the server describes them, of all versions; empty: it does not know the model."""
        request = pb.DescribeModelRequest(model_name=model_id, model_version="all")
        try:
            answer = await self._call("DescribeModel", request, READY_BOUND_S)
        except ServerError as error:
            if error.status is Status.NOT_FOUND:
                return []
            raise
        versions = _read(answer)
        found: list[Mapping[str, Any]] = []
        for version in versions if isinstance(versions, list) else []:
            workers = version.get("workers") if isinstance(version, dict) else None
            found += [one for one in workers if isinstance(one, dict)] if isinstance(workers, list) else []
        return found

    async def _call(self, method: str, request: Any, timeout_s: float) -> str:
        answer = await self._calls.call(f"{_SERVICE}/{method}", request, pb.ManagementResponse, timeout_s=timeout_s)
        return answer.msg

    def _write(self) -> None:
        """The configuration, whole or not at all: the server's container waits for it to be there."""
        self._store.mkdir(parents=True, exist_ok=True)
        making = self._store / f".{CONFIG}.writing"
        making.write_text(config(self._store))
        os.replace(making, self._store / CONFIG)  # noqa: PTH105 - what it is


def layout(given: Given) -> Layout:
    """The archive of a model.

    Raises:
        LoadError: INVALID_ARGUMENT: it is a folder without exactly one archive.
    """
    tree = given.tree
    if tree.is_file:
        return Layout({ARCHIVE: tree.path})
    archives = [name for name in tree.entries() if name.endswith(".mar") and name in tree.files]
    if len(archives) != 1:
        raise LoadError(
            f"{tree.path}: TorchServe takes one archive (.mar), this folder has {len(archives)}; make one with"
            " torch-model-archiver"
        )
    return Layout({ARCHIVE: tree.at(archives[0])})


def _place(folder: Path) -> Path:
    """Where the server finds the archive of a model's folder: it looks directly in its store only."""
    return folder.with_name(f"{folder.name}.mar")


def _link(folder: Path) -> None:
    place = _place(folder)
    remove(place)
    place.symlink_to(folder / ARCHIVE)


def config(store: Path) -> str:
    """What the server is started with. Source: spec/runtime-adapters.md 8; tokens and the model API since 0.11."""
    return (
        "\n"
        "# Written by the adapter. An environment variable TS_<NAME> takes precedence over the line of that name:\n"
        "# ports must differ from those of the mesh in the same pod, and of other servers on the same machine.\n"
        "# The management service is for the adapter alone; it listens on loopback.\n"
        "enable_envvars_config=true\n"
        f"model_store={store}\n"
        "disable_token_authorization=true\n"
        "enable_model_api=true\n"
        f"metric_time_interval={METRICS_S}\n"
        "inference_address=http://127.0.0.1:8083\n"
        "number_of_netty_threads=8\n"
        "job_queue_size=512\n"
    )


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ServerError("TorchServe answers with what is no JSON", status=Status.INTERNAL) from None


def _object(text: str) -> Mapping[str, Any]:
    found = _read(text)
    return found if isinstance(found, dict) else {}


def _process(worker: Mapping[str, Any]) -> int | None:
    found = worker.get("pid")
    return found if isinstance(found, int) and found > 0 else None
