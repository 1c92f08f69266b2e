"""What several contract suites need."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sides import pair

from modelmesh.adapters.store.etcd import EtcdStore
from modelmesh.adapters.store.etcd_settings import EtcdSettings
from modelmesh.adapters.store.sqlite import MEMORY, SqliteStore
from modelmesh.testing.etcd import FaultyEtcd, running_etcd

__all__ = ["pair"]

_roots = itertools.count()


@pytest.fixture(scope="session")
def etcd() -> Iterator[FaultyEtcd]:
    """One etcd for all tests that do it no harm; each uses a root prefix of its own."""
    with running_etcd() as running:
        yield running


@pytest.fixture(params=["file", "memory", "etcd"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteStore | EtcdStore]:
    """Every store, empty."""
    opened: SqliteStore | EtcdStore
    match request.param:
        case "file":
            opened = SqliteStore(str(tmp_path / "store"))
        case "memory":
            opened = SqliteStore(MEMORY)
        case _:
            running: FaultyEtcd = request.getfixturevalue("etcd")
            opened = EtcdStore(EtcdSettings((running.endpoint,), root_prefix=f"root-{next(_roots)}/"))
    yield opened
    await opened.close()
