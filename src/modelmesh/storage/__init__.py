"""Model files from where they are kept: locations, sources, pulls, and a disk cache.

    async with Puller(DiskCache(Path("/cache"), 20 * GIB)) as puller:
        with await puller.pull(parse_location("s3://models/mnist/1"), report) as pulled:
            load(pulled.path)

Here is what pulls files to this machine and keeps them; not how they are used. Reading order:
`locations` and `model_key` (what is meant), `listing` (what is there), `pull` (the four steps), `disk_cache` with
`cache_folder` and `fetch` (how), `sources/` (from where), `model_folders` (as model servers want it).
"""

from modelmesh.storage.credentials import storage_variables
from modelmesh.storage.defaults import DEFAULT_CACHE_BYTES, default_cache_folder
from modelmesh.storage.disk_cache import DiskCache, Held
from modelmesh.storage.errors import StorageError
from modelmesh.storage.fetch import Transfer
from modelmesh.storage.listing import GIB, Limits, Plan, SourceFile
from modelmesh.storage.locations import Kind, Location, parse_location
from modelmesh.storage.model_folders import Local, ModelFolders
from modelmesh.storage.model_key import ConfigFolder, ModelFiles, StorageConfigs, from_model_key
from modelmesh.storage.progress import Progress, Report, Stage, silent
from modelmesh.storage.pull import Places, Pulled, Puller
from modelmesh.storage.source import Source

__all__ = [
    "DEFAULT_CACHE_BYTES",
    "GIB",
    "ConfigFolder",
    "DiskCache",
    "Held",
    "Kind",
    "Limits",
    "Local",
    "Location",
    "ModelFiles",
    "ModelFolders",
    "Places",
    "Plan",
    "Progress",
    "Pulled",
    "Puller",
    "Report",
    "Source",
    "SourceFile",
    "Stage",
    "StorageConfigs",
    "StorageError",
    "Transfer",
    "default_cache_folder",
    "from_model_key",
    "parse_location",
    "silent",
    "storage_variables",
]
