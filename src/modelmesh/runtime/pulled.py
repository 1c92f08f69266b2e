"""The built-in runtime with files from anywhere: it pulls what is registered by a location."""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from modelmesh.runtime.contract import MIB, Batching, ModelSource
from modelmesh.runtime.environments import Environment, FormatElsewhere
from modelmesh.runtime.errors import LoadError
from modelmesh.runtime.files import FileRuntime, type_name
from modelmesh.runtime.formats import Format, Formats, LoadedFile, discovered, runs_code
from modelmesh.runtime.load_progress import LoadsAtWork
from modelmesh.runtime.places import TrustedPlaces
from modelmesh.runtime.workers.memory import limit_bytes
from modelmesh.runtime.workers.parent import Limits, Origin, Workers
from modelmesh.runtime.workers.processes import ForkServer
from modelmesh.storage import (
    DiskCache,
    ModelFiles,
    Places,
    Plan,
    Progress,
    Pulled,
    Puller,
    Report,
    Stage,
    StorageConfigs,
    StorageError,
    from_model_key,
)
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.status import Status

_log = logging.getLogger("modelmesh.runtime")

T = TypeVar("T")

PROCESS_BYTES = 16 * MIB
"""Memory of a process beside its model: what Python and the packages of the format do not share with others."""
UNKNOWN_FACTOR = 1.5
"""Memory to each byte on disk while the files are not here: formats compute it from the file."""


class PullingRuntime(FileRuntime):
    """Serves local files as `FileRuntime` does, and those of any location that `modelmesh.storage` can pull.

    A path with a scheme other than `file`, or a model key with a `storage_key` or `storage_params`, is pulled into the
    disk cache first. While a model is loaded its files stay there.

    Files of formats that can run code are loaded from places only that the operator named.

    Args:
        cache: Where pulled files are kept.
        configs: Storage configurations for model keys; None: there are none.
        trusted: Patterns of locations whose files may run code.
        claims: Folder of mounted claims, for `pvc://`, and for links of a puller before this runtime.
        isolated: Formats whose models run in a process each.
        environments: Models of types `format@name` run in a process each, of that environment.
        isolated_threads: Calls that such a process answers at once.
        puller: For tests.
        models, capacity_bytes, default_size_bytes, loading_concurrency, load_timeout_ms, batching, formats: As in `FileRuntime`.
    """

    def __init__(
        self,
        *,
        cache: DiskCache,
        configs: StorageConfigs | None = None,
        trusted: Sequence[str] = (),
        claims: Path | None = None,
        puller: Puller | None = None,
        models: Path | None = None,
        capacity_bytes: int = 512 * MIB,
        default_size_bytes: int = 1 * MIB,
        loading_concurrency: int = 2,
        load_timeout_ms: int = 60_000,
        batching: Batching | None = None,
        isolated: Sequence[str] = (),
        isolated_threads: int = 1,
        environments: Sequence[Environment] = (),
        formats: Formats | None = None,
    ) -> None:
        super().__init__(
            models=models,
            linked=() if claims is None else (claims,),
            capacity_bytes=capacity_bytes,
            default_size_bytes=default_size_bytes,
            loading_concurrency=loading_concurrency,
            load_timeout_ms=load_timeout_ms,
            batching=batching,
            formats=(formats or discovered()).within([one.name for one in environments]),
        )
        unknown = set(isolated) - set(self._formats.names)
        if unknown:
            raise ValueError(
                f"{', '.join(sorted(unknown))}: no such format; there are {', '.join(self._formats.names)}"
            )
        self._isolated = frozenset(isolated)
        self._fork_server = ForkServer([self._formats.module_of(name) for name in sorted(self._isolated)])
        self._elsewhere = {one.name: ForkServer([], one.python) for one in environments}
        limits = Limits.of(
            isolated_threads, load_timeout_ms / 1000, capacity_bytes=capacity_bytes, machine_bytes=limit_bytes()
        )
        self._workers = Workers({"": self._fork_server, **self._elsewhere}, limits)
        self._configs = configs or (lambda _name: None)
        self._trusted = TrustedPlaces(trusted)
        self._puller = puller or Puller(cache, places=Places(claims=claims))
        self._held: dict[int, Pulled] = {}
        self._at_work = LoadsAtWork()

    async def load(self, source: ModelSource) -> LoadedFile:  # type: ignore[override] # the contract allows both
        """Pull if need be, and load.

        Given up, it leaves nothing: a pull ends at once, a load that runs in a thread is closed when it is done.

        Raises:
            LoadError: As `FileRuntime.load`, and with the code of what a store refused. PERMISSION_DENIED: the format
                can run code, and the operator did not name the place.
        """
        files = self._remote(source)
        if files is None:
            return await self._load_file(source, *await asyncio.to_thread(self._resolve, source))
        self._check_trust(source, files, files.model.name)
        with self._at_work.one(source.id) as report:
            return await self._load_remote(source, files, report)

    async def _load_remote(self, source: ModelSource, files: ModelFiles, report: Report) -> LoadedFile:
        try:
            pulled = await self._puller.pull(files.model, _logged(source.id, report))
        except StorageError as error:
            raise LoadError(error.message, status=error.code) from None
        try:
            loaded = await self._load_file(source, *await asyncio.to_thread(self._of_pulled, source, files, pulled))
        except BaseException:
            pulled.release()
            raise
        self._held[id(loaded)] = pulled
        return loaded

    def progress(self, model_id: str) -> LoadProgress | None:
        """As the pull reports, then that it is loaded."""
        return self._at_work.get(model_id)

    async def predict_size(self, source: ModelSource) -> int | None:  # type: ignore[override] # as above
        """As the format predicts from the file; where that is not here yet, from its size."""
        files = self._remote(source)
        if files is None:
            return await asyncio.to_thread(lambda: self._predict(*self._resolve(source)))
        try:
            plan = await self._puller.plan(files.model)
            if plan.folder is None and not await self._puller.cache.present(plan):
                return round(plan.size_bytes * UNKNOWN_FACTOR) + MIB
            return await self._predicted(source, files, plan)
        except StorageError as error:
            raise LoadError(error.message, status=error.code) from None

    async def warm_up(self) -> None:  # type: ignore[override] # as above
        """Import the packages of formats, here and where the processes of models are forked from."""
        if self._isolated:
            self._fork_server.ensure_running()
        await asyncio.to_thread(super().warm_up)

    async def close(self) -> None:
        """End what starts the processes of models."""
        for server in (self._fork_server, *self._elsewhere.values()):
            server.close()

    def unload(self, model: LoadedFile) -> None:
        """Close the file's model, and release its files."""
        pulled = self._held.pop(id(model), None)
        try:
            super().unload(model)
        finally:
            if pulled is not None:
                pulled.release()

    async def _predicted(self, source: ModelSource, files: ModelFiles, plan: Plan) -> int:
        del plan
        with await self._puller.pull(files.model) as pulled:
            form, path = self._of_pulled(source, files, pulled)
            return await asyncio.to_thread(self._predict, form, path)

    def _remote(self, source: ModelSource) -> ModelFiles | None:
        """What is to be pulled; None: the path is one of this machine."""
        scheme, found, _ = source.path.partition("://")
        if (not found or scheme.lower() == "file") and not _names_storage(source.key):
            return None
        try:
            return from_model_key(source.path, source.key, self._configs)
        except StorageError as error:
            raise LoadError(error.message, status=error.code) from None

    async def _load_file(self, source: ModelSource, form: Format, path: Path) -> LoadedFile:
        if isinstance(form, FormatElsewhere):
            origin = Origin(form.reference, path, form.environment)
        elif self._is_isolated(form):
            origin = Origin(f"{type(form).__module__}:{type(form).__qualname__}", path)
        else:
            return await _in_thread(form.load, path)
        return await self._workers.load(source.id, origin)  # type: ignore[return-value] # infer is async

    def _is_isolated(self, form: Format) -> bool:
        return isinstance(form, FormatElsewhere) or self._formats.name_of(form) in self._isolated

    def _predict(self, form: Format, path: Path) -> int:
        return form.predict_size(path) + PROCESS_BYTES * self._is_isolated(form)

    def _of_pulled(self, source: ModelSource, files: ModelFiles, pulled: Pulled) -> tuple[Format, Path]:
        form, path = self._format_of(pulled.path, type_name(source.type), inside=Path)
        self._check_trust(source, files, path.name)
        return form, path

    def _check_trust(self, source: ModelSource, files: ModelFiles, file: str) -> None:
        """Refuse what may run code, before it is fetched if its type or name shows it."""
        name = type_name(source.type) or self._formats.by_suffix(Path(file))
        if name is None or not runs_code(self._formats.get(name)) or self._trusted.hold(files):
            return
        moved = " and its key moves it elsewhere" if files.redirected else ""
        raise LoadError(
            f"{files.model}: a file of type {name} can run code when it is loaded, so it is taken only from places that the"
            f" operator names{moved}; start the runtime, or `modelmesh up`, with --trust PATTERN, like"
            f" --trust '{_folder_of(files.model.text)}*'",
            status=Status.PERMISSION_DENIED,
        )


def _folder_of(text: str) -> str:
    return text.rpartition("/")[0] + "/"


def _names_storage(key: str) -> bool:
    """Whether a model key has the place of the model. A key that is not JSON does not."""
    try:
        found: Any = json.loads(key) if key else None
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool(found.get("storage_key") or found.get("storage_params"))


def _logged(model_id: str, receive: Report) -> Report:
    """A log line for each stage; `receive` gets every report."""
    last: list[Stage] = []

    def report(progress: Progress) -> None:
        receive(progress)
        if progress.stage not in last[-1:]:
            last.append(progress.stage)
            _log.info(
                "model %s: %s, %d bytes of %d files",
                model_id,
                progress.stage.value,
                progress.bytes_total,
                progress.files_total,
            )

    return report


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Load in a thread. Given up, what it has loaded is closed: a thread cannot be stopped."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if task.exception() is None:
            close = getattr(task.result(), "close", None)
            if close is not None:
                await asyncio.to_thread(close)
        raise
