"""An etcd that lets a user do little, and one that forgets: real ones."""

import asyncio
from pathlib import Path

import pytest

from modelmesh._proto import etcd_pb2 as rpc
from modelmesh.adapters.store import open_store
from modelmesh.adapters.store.etcd import EtcdStore
from modelmesh.adapters.store.etcd_settings import EtcdSettings
from modelmesh.instance.local_etcd import HISTORY, LocalEtcd
from modelmesh.ports import CompactedError, Compare, Put, StoreError, StoreUnavailableError, Transaction
from modelmesh.testing.etcd import administer
from modelmesh.values.ids import Revision

OWN = b"/prod/tas-runtime/svc/"


def put(key: str, value: bytes) -> Transaction:
    return Transaction((Compare(key, "version", ">", -1),), (Put(key, value),))


async def allow_only(etcd: LocalEtcd, user: str, password: str) -> None:
    """Make `user` one who may read and write the keys of one cluster, and turn access control on."""
    permission = rpc.Permission(permType=rpc.Permission.READWRITE, key=OWN, range_end=OWN[:-1] + b"0")
    await administer(
        etcd.endpoint,
        *(rpc.AuthUserAddRequest(name=name, password=password) for name in ("root", user)),
        rpc.AuthUserGrantRoleRequest(user="root", role="root"),
        rpc.AuthRoleAddRequest(name="mesh"),
        rpc.AuthRoleGrantPermissionRequest(name="mesh", perm=permission),
        rpc.AuthUserGrantRoleRequest(user=user, role="mesh"),
        rpc.AuthEnableRequest(),
    )


async def test_a_role_for_the_clusters_own_keys_is_enough(tmp_path: Path) -> None:
    etcd = LocalEtcd(tmp_path, durable=False)
    await asyncio.to_thread(etcd.start)
    try:
        await allow_only(etcd, "mesh", "words")
        settings = EtcdSettings(endpoints=(etcd.endpoint,), user="mesh", password="words", root_prefix="/prod")
        store = EtcdStore(settings)
        await store.connect()
        await store.transact(put("/tas-runtime/svc/registry/m", b"x"))
        lease = await store.grant(5_000)
        await store.keep_alive(lease)
        assert [item.key for item in (await store.range("/tas-runtime/svc/")).items] == ["/tas-runtime/svc/registry/m"]
        with pytest.raises(StoreError, match="PERMISSION_DENIED") as caught:
            await store.get("/elsewhere")
        assert not isinstance(caught.value, StoreUnavailableError), "asking again will not help"
        await store.close()
        wrong = EtcdStore(EtcdSettings(endpoints=(etcd.endpoint,), user="mesh", password="other", root_prefix="/prod"))
        with pytest.raises(StoreUnavailableError, match="authentication failed"):
            await wrong.connect()
        await wrong.close()
    finally:
        await asyncio.to_thread(etcd.stop)


async def test_a_private_etcd_forgets_its_history(tmp_path: Path) -> None:
    etcd = LocalEtcd(tmp_path, durable=False, arguments=("--auto-compaction-retention=1s",))
    await asyncio.to_thread(etcd.start)
    try:
        store = await open_store(f"etcd:{etcd.endpoint}")
        first = (await store.transact(put("/a", b"0"))).revision
        for number in range(20):
            await store.transact(put("/a", str(number).encode()))

        async def is_compacted() -> bool:
            try:
                await store.range("/", revision=Revision(first))
            except CompactedError:
                return True
            return False

        async with asyncio.timeout(20):
            while not await is_compacted():
                await store.transact(put("/a", b"more"))
                await asyncio.sleep(0.1)
        await store.close()
        command = Path(f"/proc/{etcd.pid}/cmdline").read_text()
        assert "--auto-compaction-mode=periodic" in command
        assert f"--auto-compaction-retention={HISTORY}" in command
    finally:
        await asyncio.to_thread(etcd.stop)
