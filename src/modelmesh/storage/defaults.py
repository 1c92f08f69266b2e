"""The default folder and size of the disk cache."""

from collections.abc import Mapping
from pathlib import Path

from modelmesh.storage.listing import GIB

DEFAULT_CACHE_BYTES = 20 * GIB


def default_cache_folder(environ: Mapping[str, str]) -> Path:
    """MODELMESH_CACHE, else `modelmesh/models` in the user's cache folder."""
    if environ.get("MODELMESH_CACHE"):
        return Path(environ["MODELMESH_CACHE"])
    home = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME') or '/tmp'}/.cache"  # noqa: S108 - a home without a home
    return Path(home) / "modelmesh" / "models"
