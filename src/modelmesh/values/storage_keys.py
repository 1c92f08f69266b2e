"""The key of a storage configuration: which entry of which Secret says how a model's files are read.

`KEY` is an entry of the Secret that all models of a namespace share; `NAME:KEY` is one of the Secret `storage-config-NAME`.
No key of a Secret has a colon, so both can lie in one folder under their own names.
"""

import re
from typing import NamedTuple

SHARED_SECRET = "storage-config"  # noqa: S105 - the name of a Secret

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEY = re.compile(r"(?!\.{1,2}$|\.\.)[-._a-zA-Z0-9]{1,253}")


class StorageKey(NamedTuple):
    """One entry. `name` is that of a Secret of its own; empty: it is in the shared one."""

    name: str
    key: str

    @property
    def text(self) -> str:
        """As a model names it, and as its file is called."""
        return f"{self.name}:{self.key}" if self.name else self.key


def parse_storage_key(text: str) -> StorageKey | None:
    """Read what a model names; None if no Secret can have it."""
    name, colon, key = text.rpartition(":")
    if not _KEY.fullmatch(key) or (colon and not _NAME.fullmatch(name)):
        return None
    return StorageKey(name, key)


def secret_of(name: str) -> str:
    """The Secret of a name."""
    return f"{SHARED_SECRET}-{name}"
