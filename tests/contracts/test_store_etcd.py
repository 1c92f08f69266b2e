"""What the shared store promises beyond the port: an etcd that is paused, killed, wiped, secured."""

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from modelmesh._proto import etcd_pb2 as rpc
from modelmesh.adapters.store import connection_file, open_store
from modelmesh.adapters.store.etcd import EtcdStore
from modelmesh.adapters.store.etcd_settings import EtcdSettings
from modelmesh.adapters.store.sqlite import SqliteStore
from modelmesh.instance.local_etcd import LocalEtcd, LocalEtcdError
from modelmesh.ports import (
    CompactedError,
    LeaseNotFoundError,
    Put,
    StoreUnavailableError,
    Transaction,
)
from modelmesh.testing.certificates import Authority
from modelmesh.testing.etcd import FaultyEtcd, GuardedEtcd, administer, guarded_etcd, running_etcd
from modelmesh.values.ids import Revision

REFUSED = "127.0.0.1:1"


@pytest.fixture(scope="module")
def victim() -> Iterator[FaultyEtcd]:
    """An etcd that suffers; running and resumed when a test begins."""
    with running_etcd() as etcd:
        yield etcd


@pytest.fixture
async def suffering(victim: FaultyEtcd) -> AsyncIterator[EtcdStore]:
    victim.start()
    store = EtcdStore(EtcdSettings((victim.endpoint,)), call_timeout_s=1.0, silence_s=0.5)
    await store.connect()
    yield store
    await store.close()
    victim.start()
    victim.resume()


async def put(store: EtcdStore, key: str, value: bytes = b"v", lease: int = 0) -> Revision:
    return (await store.transact(Transaction((), (Put(key, value, lease),)))).revision


async def eventually(store: EtcdStore, key: str = "a") -> None:
    """Until etcd answers again; it elects itself after a restart."""
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(StoreUnavailableError):
                await store.get(key)
                return
            await asyncio.sleep(0.05)


async def test_a_refused_connection_fails_within_a_second():
    store = EtcdStore(EtcdSettings((REFUSED,)))
    for _ in range(3):
        before = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            await store.get("a")
        with pytest.raises(StoreUnavailableError):
            await put(store, "a")
        with pytest.raises(StoreUnavailableError):
            await anext(store.watch("", start=Revision(1)))
        with pytest.raises(StoreUnavailableError):
            await store.grant(1000)
        with pytest.raises(StoreUnavailableError):
            await store.keep_alive(1)
        assert time.monotonic() - before < 1
    await store.close()


async def test_an_address_that_swallows_packets_fails_after_the_timeout():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        store = EtcdStore(EtcdSettings((f"127.0.0.1:{silent.getsockname()[1]}",)), call_timeout_s=0.3)
        before = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"Problem connecting to etcd at .* within 0\.3 s"):
            await store.connect()
        assert time.monotonic() - before < 1
        await store.close()


async def test_a_paused_etcd_is_unavailable_and_comes_back(victim, suffering):
    now = await put(suffering, "a")
    watch = suffering.watch("", start=Revision(now + 1))
    watching = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    victim.pause()
    before = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="did not answer within"):
        await put(suffering, "a")
    with pytest.raises(StoreUnavailableError, match="silent"):
        await watching
    assert time.monotonic() - before < 3
    victim.resume()
    await eventually(suffering)
    assert await put(suffering, "b") > now


async def test_a_pause_shorter_than_the_timeout_is_not_noticed(victim, suffering):
    now = await put(suffering, "a")
    watch = suffering.watch("b", start=Revision(now + 1))
    watching = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    victim.pause()
    writing = asyncio.ensure_future(put(suffering, "b"))
    await asyncio.sleep(0.2)
    victim.resume()
    await writing
    assert [change.item.key for change in await watching] == ["b"]
    await watch.aclose()


async def test_a_silent_watch_is_kept_by_signs_of_life(victim, suffering):
    """Nothing happens for longer than silence and time-out together; the watch lives and delivers."""
    now = await put(suffering, "a")
    watch = suffering.watch("b", start=Revision(now + 1))
    watching = asyncio.ensure_future(anext(watch))
    done, _ = await asyncio.wait((watching,), timeout=2.5)
    assert not done
    await put(suffering, "b")
    assert [change.item.key for change in await watching] == ["b"]
    await watch.aclose()


async def test_a_watch_that_is_not_read_for_long_is_not_taken_for_silent(victim, suffering):
    now = await put(suffering, "a")
    watch = suffering.watch("b", start=Revision(now + 1))
    watching = asyncio.ensure_future(anext(watch))
    await put(suffering, "b1")
    assert [change.item.key for change in await watching] == ["b1"]
    await asyncio.sleep(2)
    watching = asyncio.ensure_future(anext(watch))
    await put(suffering, "b2")
    assert [change.item.key for change in await watching] == ["b2"]
    await watch.aclose()


async def test_a_task_that_is_cancelled_while_its_watch_is_silent_is_told_so(victim, suffering):
    now = await put(suffering, "a")
    watching = asyncio.ensure_future(anext(suffering.watch("", start=Revision(now + 1))))
    await asyncio.sleep(0.2)
    victim.pause()
    await asyncio.sleep(0.8)  # a sign of life was asked for
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_a_killed_etcd_keeps_keys_and_leases_when_restarted(victim, suffering):
    lease = await suffering.grant(60_000)
    before = await put(suffering, "leased", lease=lease)
    watching = asyncio.ensure_future(anext(suffering.watch("", start=Revision(before + 1))))
    await asyncio.sleep(0)
    victim.kill()
    with pytest.raises(StoreUnavailableError):
        await watching
    with pytest.raises(StoreUnavailableError):
        await put(suffering, "a")
    victim.restart()
    await eventually(suffering)
    await suffering.keep_alive(lease)
    item = await suffering.get("leased")
    assert item is not None
    assert item.mod_revision == before
    await suffering.revoke(lease)


async def test_a_wiped_etcd_is_a_new_one(victim, suffering):
    lease = await suffering.grant(60_000)
    for _ in range(10):
        last = await put(suffering, "a", lease=lease)
    victim.wipe()
    await eventually(suffering)
    assert await suffering.get("a") is None
    with pytest.raises(LeaseNotFoundError):
        await suffering.keep_alive(lease)
    with pytest.raises(LeaseNotFoundError):
        await put(suffering, "a", lease=lease)
    with pytest.raises(CompactedError):
        await suffering.range("", revision=last)
    assert await put(suffering, "a") < last


async def test_a_lease_runs_out_by_itself(etcd):
    store = EtcdStore(EtcdSettings((etcd.endpoint,), root_prefix="expiry/"))
    lease = await store.grant(1_000)
    now = await put(store, "a", lease=lease)
    changes = await anext(store.watch("", start=Revision(now + 1)))
    assert [(change.kind.value, change.item.key) for change in changes] == [("delete", "a")]
    with pytest.raises(LeaseNotFoundError):
        await store.keep_alive(lease)
    await store.close()


async def test_endpoints_that_are_down_are_passed_over(etcd):
    store = EtcdStore(EtcdSettings((REFUSED, "127.0.0.1:2", etcd.endpoint), root_prefix="over/"))
    now = await put(store, "a")  # a write may be sent again only because it never left
    await store.connect()
    assert [change.item.key for change in await anext(store.watch("", start=now))] == ["a"]
    lease = await store.grant(10_000)
    await store.keep_alive(lease)
    await store.revoke(lease)
    await store.close()


async def test_another_endpoint_takes_over_when_one_dies(victim, etcd):
    """Two single etcds stand in for two members: what matters is who is asked."""
    victim.start()
    store = EtcdStore(EtcdSettings((victim.endpoint, etcd.endpoint), root_prefix="failover/"), call_timeout_s=1.0)
    await put(store, "here", b"victim")
    victim.kill()
    async with asyncio.timeout(30):
        assert await store.get("here") is None
    await put(store, "there")
    victim.start()
    await store.close()


async def test_large_values_and_tables_pass(etcd):
    """Together beyond gRPC's usual limit of 4 MiB for one answer."""
    store = EtcdStore(EtcdSettings((etcd.endpoint,), root_prefix="large/"))
    for i in range(12):
        await put(store, f"k/{i:02}", bytes([i]) * 1_000_000)
    listing = await store.range("k/")
    assert [(len(item.value), item.value[0]) for item in listing.items] == [(1_000_000, i) for i in range(12)]
    await store.close()


async def test_cancelling_a_call_cancels_only_that_call(etcd):
    store = EtcdStore(EtcdSettings((etcd.endpoint,), root_prefix="cancel/"))
    calls = [asyncio.ensure_future(put(store, f"k/{i}")) for i in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert all(isinstance(result, int) for result in results[1::2])
    watching = asyncio.ensure_future(anext(store.watch("", start=Revision(1_000_000))))
    await asyncio.sleep(0.05)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert await put(store, "after") > 0
    await store.close()


# --- users and certificates ---


async def test_users_get_a_token_and_a_new_one_when_it_has_run_out():
    """A restarted etcd knows no old tokens: the same answer as for one that has expired."""
    with running_etcd() as etcd:
        await administer(
            etcd.endpoint,
            rpc.AuthUserAddRequest(name="root", password="secret"),
            rpc.AuthUserGrantRoleRequest(user="root", role="root"),
        )
        store = EtcdStore(EtcdSettings((etcd.endpoint,), user="root", password="secret"))
        await store.connect()  # a user is given though none is asked for yet
        await administer(etcd.endpoint, rpc.AuthEnableRequest())
        now = await put(store, "a")
        assert [change.item.key for change in await anext(store.watch("", start=now))] == ["a"]
        lease = await store.grant(60_000)
        etcd.restart()
        await eventually(store)
        await store.keep_alive(lease)
        assert await put(store, "a") > now
        etcd.restart()
        # The watch is the first to learn that the token is void; watching again works.
        async with asyncio.timeout(10):
            while True:
                try:
                    changes = await anext(store.watch("", start=now))
                    break
                except StoreUnavailableError:
                    await asyncio.sleep(0.05)
        assert changes[0].item.key == "a"
        await store.close()
        wrong = EtcdStore(EtcdSettings((etcd.endpoint,), user="root", password="wrong"))
        with pytest.raises(StoreUnavailableError, match=r"Problem connecting to etcd.*authentication failed"):
            await wrong.connect()
        await wrong.close()
        nobody = EtcdStore(EtcdSettings((etcd.endpoint,)))
        with pytest.raises(StoreUnavailableError, match=r"Problem connecting to etcd.*user name is empty"):
            await nobody.connect()
        await nobody.close()


async def test_tls_with_certificates_on_both_sides(tmp_path: Path):
    """The server asks for a client's certificate, and is known by a name that is not its address."""
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    for name, issued in (("server", authority.issue("etcd.example")), ("client", authority.issue("client"))):
        (tmp_path / f"{name}.pem").write_bytes(issued.certificate)
        (tmp_path / f"{name}.key").write_bytes(issued.key)
    plain, secure = free_ports(2)
    etcd = LocalEtcd(
        tmp_path / "etcd",
        durable=False,
        arguments=(
            f"--listen-client-urls=http://127.0.0.1:{plain},https://127.0.0.1:{secure}",
            f"--cert-file={tmp_path / 'server.pem'}",
            f"--key-file={tmp_path / 'server.key'}",
            f"--trusted-ca-file={tmp_path / 'ca.pem'}",
            "--client-cert-auth",
        ),
    )
    etcd.port = plain
    etcd.start()
    try:
        fields = {
            "endpoints": f"https://127.0.0.1:{secure}",
            "certificate_file": "ca.pem",
            "client_certificate_file": "client.pem",
            "client_key_file": "client.key",
            "override_authority": "etcd.example",
        }
        (tmp_path / "connection.json").write_text(json.dumps(fields))
        store = await open_store(f"etcd:{tmp_path / 'connection.json'}")
        now = await put(store, "a")
        assert [change.item.key for change in await anext(store.watch("", start=now))] == ["a"]
        await store.close()
        for missing in ("client_certificate_file", "override_authority"):
            less = {
                name: text
                for name, text in fields.items()
                if name not in {missing, missing.replace("certificate", "key")}
            }
            (tmp_path / "connection.json").write_text(json.dumps(less))
            with pytest.raises(StoreUnavailableError, match="Problem connecting to etcd"):
                await open_store(f"etcd:{tmp_path / 'connection.json'}")
    finally:
        etcd.stop()


# --- a connection file that changes ---


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[tuple[GuardedEtcd, Path]]:
    """An etcd over TLS with a password, and the file that tells how to reach it."""
    async with guarded_etcd(tmp_path, "first") as guarded:
        file = tmp_path / "connection.json"
        file.write_text(json.dumps(guarded.connection))
        yield guarded, file


class Followed:
    """A store, the file that it follows, and what was said of that."""

    def __init__(self, store: EtcdStore, path: Path) -> None:
        self.said: list[str] = []
        self.store = store
        file = connection_file(
            f"etcd:{path}", store, changed=lambda: self.said.append("changed"), refused=self.said.append
        )
        assert file is not None
        self.file = file

    async def looks(self, times: int = 2) -> list[str]:
        """Look so often at the file; returns what is new to say."""
        before = len(self.said)
        for _ in range(times):
            await self.file.look()
        return self.said[before:]


async def test_a_renewed_password_and_authority_take_hold_without_a_restart(guarded, tmp_path: Path):
    server, file = guarded
    store = await open_store(f"etcd:{file}")
    assert isinstance(store, EtcdStore)
    followed = Followed(store, file)
    watching = asyncio.ensure_future(anext(store.watch("w", start=await put(store, "a"))))
    assert await followed.looks(3) == []

    await server.change_password("second")
    file.write_text(json.dumps(server.connection))
    authority = Authority("the next")
    authority.issue("127.0.0.1").write(tmp_path / "etcd-tls")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    assert await followed.looks(1) == [], "half of it may still be under way"
    assert await followed.looks(1) == ["changed"]
    assert await put(store, "w1") > 0
    assert [change.item.key for change in await asyncio.wait_for(watching, 10)] == ["w1"], "what ran goes on"

    await asyncio.to_thread(server.etcd.stop)
    await asyncio.to_thread(server.etcd.start)  # tokens and connections from before are void
    await eventually(store)
    assert await put(store, "a") > 0
    assert await followed.looks() == []
    await store.close()


async def test_a_connection_file_that_does_not_let_us_in_is_not_used(guarded, tmp_path: Path):
    server, file = guarded
    store = await open_store(f"etcd:{file}")
    assert isinstance(store, EtcdStore)
    followed = Followed(store, file)
    for changes, said in [
        ({"password": "wrong"}, "authentication failed"),
        ({"password": 7}, "password in .* must be text"),
        ({"certificate_file": "gone.pem"}, "certificate_file in .* names gone.pem"),
        ({"root_prefix": "other"}, "root_prefix cannot change"),
    ]:
        file.write_text(json.dumps(server.connection | changes))
        (why,) = await followed.looks(4)
        assert re.search(said + ".*; what was before stays in use", why), why
        assert await put(store, "a") > 0
    file.unlink()
    (why,) = await followed.looks(3)
    assert "there is no file" in why
    file.write_text(json.dumps(server.connection))
    assert await followed.looks(3) == [], "it says again what is in use"

    await server.change_password("second")
    file.write_text(json.dumps(server.connection))
    assert await followed.looks() == ["changed"]
    await store.close()


def test_only_a_file_is_followed(tmp_path: Path):
    store = EtcdStore(EtcdSettings((REFUSED,)))
    assert connection_file(f"etcd:{REFUSED}", store, changed=print, refused=print) is None
    memory = SqliteStore(":memory:")
    (tmp_path / "db").touch()
    assert connection_file(f"sqlite:{tmp_path / 'db'}", memory, changed=print, refused=print) is None


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_until_all_are_known:
        sockets = [open_until_all_are_known.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


# --- the process ---


def test_an_etcd_that_cannot_start_says_why(tmp_path: Path):
    etcd = LocalEtcd(tmp_path, arguments=("--no-such-flag",))
    with pytest.raises(LocalEtcdError, match="no-such-flag"):
        etcd.start()
    assert etcd.pid is None


def test_an_etcd_keeps_its_data_and_port_over_a_stop(tmp_path: Path):
    etcd = LocalEtcd(tmp_path, durable=False)
    etcd.start()
    endpoint, pid = etcd.endpoint, etcd.pid
    etcd.start()
    assert etcd.pid == pid
    etcd.stop()
    assert etcd.pid is None
    etcd.start()
    assert etcd.endpoint == endpoint
    etcd.stop()
