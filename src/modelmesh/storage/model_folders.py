"""A folder for each model, as model servers in pods know it: `<root>/<model id>/<name>`, linked into the disk cache.

Source: spec/runtime-adapters.md 2.3, 2.5 to 2.7.
"""

import asyncio
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from modelmesh.storage.errors import StorageError, of_os_error
from modelmesh.storage.listing import Plan
from modelmesh.storage.model_key import ModelFiles, StorageConfigs, from_model_key, rewritten_key
from modelmesh.storage.names import base_name, check_name, clip, shown
from modelmesh.storage.progress import Report, silent
from modelmesh.storage.pull import Pulled, Puller
from modelmesh.values.status import Status


@dataclass(frozen=True, slots=True)
class Local:
    """A model whose files are here.

    Attributes:
        path: Absolute, of its file or folder: `<root>/<model id>/<name>`.
        key: The model key for a runtime: `model_type`, `disk_size_bytes`, `schema_path`.
        size_bytes: Of the model's files, without the schema.
        schema: Absolute path of the schema, if it has one.
        folder: `<root>/<model id>`.
        files: What was asked for.
    """

    path: Path
    key: str
    size_bytes: int
    schema: Path | None
    folder: Path
    files: ModelFiles


@dataclass(frozen=True, slots=True)
class PlannedFiles:
    """Where a model's files would be, and the key for a runtime."""

    path: Path
    key: str


@dataclass(slots=True)
class _Model:
    folder: Path
    pulled: list[Pulled] = field(default_factory=list)


class ModelFolders:
    """The folders of the models that are loaded or being loaded.

    Calls for one model must not overlap; those for different models may.

    Args:
        root: Of all models; made if it is not there. Names in it that begin with `_` are no models.
        puller: Pulls the files. Its cache is best a folder of `root` whose name begins with `_`: then links to it are
            relative, and lead somewhere in every container that has the volume.
        configs: Storage configurations.
        keeps: Files that no model needs stay in the cache, within its budget; else they go at once.
    """

    def __init__(self, root: Path, puller: Puller, configs: StorageConfigs, *, keeps: bool = True) -> None:
        self.root = root
        self._puller = puller
        self._configs = configs
        self._keeps = keeps
        self._models: dict[str, _Model] = {}

    def asked(self, path: str, model_key: str) -> ModelFiles:
        """What a load's path and key mean. Raises StorageError."""
        return from_model_key(path, model_key, self._configs)

    async def plan(self, path: str, model_key: str) -> Plan:
        """What a model would have, by listing it.

        Raises:
            StorageError: As `bring`.
        """
        return await self._puller.plan(self.asked(path, model_key).model)

    def planned(self, model_id: str, path: str, model_key: str, disk_bytes: int) -> "PlannedFiles":
        """What `bring` would return for a model of that many bytes. Raises StorageError."""
        files = self.asked(path, model_key)
        folder = self._folder(model_id)
        schema = None if files.schema is None else str(folder / files.schema_name)
        return PlannedFiles(
            folder / files.model_name, rewritten_key(files, disk_size_bytes=disk_bytes, schema_path=schema)
        )

    async def bring(self, model_id: str, path: str, model_key: str, report: Report = silent) -> Local:
        """The files of a model, in its folder. Its former content is removed.

        When it fails or is cancelled, nothing of the model is left.

        Raises:
            StorageError: They cannot be had; nothing was loaded.
        """
        folder = self._folder(model_id)
        files = self.asked(path, model_key)
        check_name(files.model_name, f"the path of model {shown(model_id)}")
        self._forget(model_id)
        model = self._models[model_id] = _Model(folder)
        try:
            main = await self._puller.pull(files.model, report)
            model.pulled.append(main)
            extra = None
            if files.schema is not None:
                extra = await self._puller.pull(files.schema, silent)
                model.pulled.append(extra)
            return await asyncio.to_thread(self._link, model, files, main, extra)
        except OSError as error:
            self._forget(model_id)
            raise of_os_error(error, f"the folder {folder}") from error
        except BaseException:
            self._forget(model_id)
            raise

    async def drop(self, model_id: str) -> None:
        """Remove a model's folder, and release its files in the cache; none is a success.

        Raises:
            StorageError: The folder cannot be removed; the files stay held.
        """
        self._forget(model_id)
        if not self._keeps:
            await self._puller.cache.trim(0)

    def left(self) -> list[str]:
        """The ids of models whose folders are in the root, from this process or an earlier one; `drop` removes each.

        Raises:
            StorageError: The root cannot be read or made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return sorted(one.name for one in self.root.iterdir() if not one.name.startswith("_"))
        except OSError as error:
            raise of_os_error(error, f"the folder of models {self.root}") from error

    def _folder(self, model_id: str) -> Path:
        """`<root>/<model id>`, the id clipped at the root as it always was."""
        clipped = clip(model_id)
        if not clipped or clipped.startswith("_") or "\0" in clipped:
            raise StorageError(
                Status.INVALID_ARGUMENT,
                f"the model id {shown(model_id)!r} cannot be a folder's name; it must not be empty or begin with _",
            )
        return self.root / clipped

    def _link(self, model: _Model, files: ModelFiles, main: Pulled, extra: Pulled | None) -> Local:
        model.folder.mkdir(parents=True, exist_ok=True)
        path = model.folder / files.model_name
        _link(path, main.path)
        schema = None
        if extra is not None:
            schema = model.folder / files.schema_name
            _link(schema, extra.path)
        key = rewritten_key(files, disk_size_bytes=main.size_bytes, schema_path=None if schema is None else str(schema))
        return Local(path, key, main.size_bytes, schema, model.folder, files)

    def _forget(self, model_id: str) -> None:
        model = self._models.get(model_id)
        folder = model.folder if model is not None else self._folder(model_id)
        try:
            _remove(folder)
        except OSError as error:
            raise of_os_error(error, f"the folder {folder}") from error
        if model is not None:
            del self._models[model_id]
            for pulled in model.pulled:
                pulled.release()


def _link(link: Path, to: Path) -> None:
    """A relative link if both lie in one tree of volumes, else an absolute one."""
    common = os.path.commonpath([link.parent.absolute(), to.absolute()])
    link.symlink_to(os.path.relpath(to.absolute(), link.parent.absolute()) if base_name(common) else to.absolute())


def _remove(folder: Path) -> None:
    """Remove a model's folder; of links only the links."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
        return
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
