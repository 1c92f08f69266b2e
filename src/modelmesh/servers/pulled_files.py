"""The embedded puller: the adapter pulls files itself, from the place that the model's path and key name."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from modelmesh.runtime.contract import ModelSource
from modelmesh.runtime.errors import RuntimeFault
from modelmesh.servers.files import Brought
from modelmesh.servers.settings import AdapterSettings
from modelmesh.storage import ConfigFolder, DiskCache, ModelFolders, Places, Puller, Report, StorageError


class PulledFiles:
    """Pulls through a disk cache into a folder for each model.

    Args:
        folders: Of the models.
    """

    def __init__(self, folders: ModelFolders) -> None:
        self._folders = folders

    async def bring(self, source: ModelSource, report: Report) -> Brought:
        """Pull the files, or find them in the cache. Cancelled or failed, it leaves nothing of the model."""
        try:
            local = await self._folders.bring(source.id, source.path, source.key, report)
        except StorageError as error:
            raise _fault(error) from error
        # The cache's own folder of a content has that content's name.
        return Brought(local.path, local.schema, local.size_bytes, str(local.path.resolve()))

    async def drop(self, model_id: str) -> None:
        """Remove the model's folder; the cache keeps the files while it has room."""
        try:
            await self._folders.drop(model_id)
        except StorageError as error:
            raise _fault(error) from error

    async def sizes(self, source: ModelSource) -> Mapping[str, int]:
        """From the store's listing."""
        try:
            plan = await self._folders.plan(source.path, source.key)
        except StorageError as error:
            raise _fault(error) from error
        return {file.name: file.size_bytes or 0 for file in plan.files}

    async def clear(self) -> None:
        """Remove the folders of all models; the cache stays."""
        try:
            for model_id in self._folders.left():
                await self._folders.drop(model_id)
        except StorageError as error:
            raise _fault(error) from error


@asynccontextmanager
async def pulled_files(settings: AdapterSettings, folders: tuple[Path, ...] = ()) -> AsyncIterator[PulledFiles]:
    """The embedded puller of an adapter; ends with the context.

    Args:
        settings: Of the adapter.
        folders: What `file:///…` may be in.

    Raises:
        OSError: The cache's folder cannot be made.
    """
    cache = DiskCache(settings.cache, settings.cache_bytes)
    places = Places(claims=settings.claims if settings.claims.is_dir() else None, folders=folders)
    async with Puller(cache, places=places) as puller:
        yield PulledFiles(ModelFolders(settings.root, puller, ConfigFolder(settings.storage_configs)))


def _fault(error: StorageError) -> RuntimeFault:
    return RuntimeFault(error.message, status=error.code)
