"""The folder of `modelmesh up --state`: who uses it, which store it holds, and what was registered from a models' folder."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from modelmesh.adapters.store import open_store
from modelmesh.control.view.keys import Keys
from modelmesh.instance.model_folder import FolderModel
from modelmesh.ports import Compare, Put, Store, Transaction

LOCK = "lock"
SQLITE = "store.db"
IMPORTED = "store.db.imported"
ETCD = "etcd"
REGISTERED = "registered.json"
PAGE = 500


class StateFolderError(Exception):
    """The folder cannot be used; the message has the reason and the next step."""


class StateFolder:
    """One state folder, for one `modelmesh up` at a time. Only its owner can read it.

    Registrations outlive a change of the number of instances: what one instance kept in SQLite is copied into the etcd
    that several need, once, and that etcd is used after that, also by one instance.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: IO[str] | None = None

    def take(self) -> None:
        """Make the folder and take it.

        Raises:
            StateFolderError: Another `modelmesh up` runs with it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateFolderError(f"cannot use the state folder {self.path}: {error.strerror}") from error
        self._lock = os.fdopen(descriptor, "r+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = self._lock.read(20).strip()
            self.release()
            raise StateFolderError(
                f"the state folder {self.path} is in use by another modelmesh up{f' (process {holder})' if holder else ''};"
                " stop that one, or name another folder with --state"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        for name in (SQLITE, IMPORTED):
            if (self.path / name).exists():
                (self.path / name).chmod(0o600)

    def release(self) -> None:
        """Let others use it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def needs_etcd(self, instances: int) -> bool:
        """Whether the registrations of so many instances stand, or will stand, in etcd."""
        return instances > 1 or (self.path / ETCD / "data").exists()

    def sqlite(self) -> str:
        """The KV_STORE of one instance."""
        return f"sqlite:{self.path / SQLITE}"

    async def fill_etcd(self, kv_store: str, keys: Keys) -> int:
        """Copy what one instance had registered into the etcd; returns how many records.

        Raises:
            StoreError: One of the stores cannot be used. What was copied by then is copied again the next time.
        """
        source_path = self.path / SQLITE
        if not source_path.exists():
            return 0
        source = await open_store(f"sqlite:{source_path}")
        try:
            target = await open_store(kv_store)
            try:
                count = await _copy(source, target, (keys.registry, keys.vmodels, keys.config))
            finally:
                await target.close()
        finally:
            await source.close()
        source_path.rename(self.path / IMPORTED)
        for suffix in ("-wal", "-shm"):
            source_path.with_name(SQLITE + suffix).unlink(missing_ok=True)
        return count

    def registered(self) -> dict[str, FolderModel]:
        """What was registered from a models' folder the last time; nothing if that cannot be read."""
        try:
            decoded = json.loads((self.path / REGISTERED).read_bytes())
            return {str(model): FolderModel(str(type_), str(path)) for model, (type_, path) in decoded.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def remember(self, models: Mapping[str, FolderModel]) -> None:
        """Keep what is registered from the models' folder now. Raises OSError."""
        text = json.dumps({model: [file.type, file.path] for model, file in models.items()})
        new = self.path / f"{REGISTERED}.new"
        new.write_text(text)
        new.replace(self.path / REGISTERED)


async def _copy(source: Store, target: Store, prefixes: tuple[str, ...]) -> int:
    """Copy the keys under some prefixes that are not there yet."""
    count = 0
    for prefix in prefixes:
        after, more = "", True
        while more:
            listing = await source.range(prefix, start_after=after, limit=PAGE)
            for item in listing.items:
                put = Transaction((Compare(item.key, "version", "==", 0),), (Put(item.key, item.value),))
                count += (await target.transact(put)).succeeded
                after = item.key
            more = listing.more
    return count
