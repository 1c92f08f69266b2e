"""The stores: `sqlite` embedded in one instance, `etcd` shared by several.

Read first: `malformed` (what both refuse), then `sqlite_tables`, `sqlite`, `etcd_settings`, `etcd_channel`,
`etcd`. One contract suite, `tests/contracts/test_store.py`, holds them to `modelmesh.ports.Store`.
"""

from collections.abc import Callable
from pathlib import Path

from modelmesh.adapters.store.etcd import EtcdStore
from modelmesh.adapters.store.etcd_file import EtcdFile
from modelmesh.adapters.store.etcd_settings import StoreSettingError, parse_etcd
from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.ports import Store

__all__ = ["StoreSettingError", "connection_file", "open_store"]

_FORMS = "KV_STORE is etcd:<JSON file>, etcd:host:port,host:port;rootPrefix=<prefix>, or sqlite:<file>"


async def open_store(kv_store: str) -> EtcdStore | SqliteStore:
    """Open the store that a KV_STORE setting names; the caller closes it.

    An etcd's root prefix is prepended to all keys and taken from all answers inside the adapter.

    Raises:
        StoreSettingError: The setting is malformed, or names a kind of store there is none of any more.
        StoreFileError: The SQLite file is in use or cannot be used.
        StoreUnavailableError: etcd does not answer, or refuses the user.
    """
    kind, separator, rest = kv_store.strip().partition(":")
    if kind == "zookeeper":
        raise StoreSettingError("ZooKeeper is no longer supported; move the data to etcd and set KV_STORE=etcd:…")
    if not separator or not rest or kind not in {"etcd", "sqlite"}:
        raise StoreSettingError(f"cannot use {kv_store!r} as a store: {_FORMS}")
    if kind == "sqlite":
        return SqliteStore(rest)
    store = EtcdStore(parse_etcd(rest))
    try:
        await store.connect()
    except BaseException:
        await store.close()
        raise
    return store


def connection_file(
    kv_store: str, store: Store, *, changed: Callable[[], None], refused: Callable[[str], None]
) -> EtcdFile | None:
    """What lets a store that was opened with `kv_store` follow the file named there; None if none is."""
    text = kv_store.strip().partition(":")[2]
    if not isinstance(store, EtcdStore) or not Path(text).is_file():
        return None
    return EtcdFile(text, store, changed=changed, refused=refused)
