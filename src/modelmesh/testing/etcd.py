"""A real etcd for tests, which can be made to fail in the ways etcds do."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from modelmesh._proto import etcd_pb2 as rpc
from modelmesh.instance.local_cluster import free_port
from modelmesh.instance.local_etcd import LocalEtcd
from modelmesh.testing.certificates import Authority

__all__ = ["FaultyEtcd", "GuardedEtcd", "administer", "guarded_etcd", "running_etcd"]

_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  # a folder of ours is made inside


class FaultyEtcd(LocalEtcd):
    """An etcd to pause, kill, restart and wipe. Keeps its port through all of it."""

    def pause(self) -> None:
        """Stop the process where it stands: connections stay open without answers."""
        self.signal(signal.SIGSTOP)
        if self.pid is not None:
            # Its threads stop one after another; until the last has, a call may still be answered.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it continue. It soon notices how late it is, and which leases that has ended."""
        self.signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it if it runs, and start it with its data."""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """Kill it if it runs, lose its data, and start it: an empty etcd at the same address."""
        self.kill()
        shutil.rmtree(self.data_folder, ignore_errors=True)
        self.start()


_AUTH: dict[type[Message], tuple[str, type[Message]]] = {
    rpc.AuthEnableRequest: ("AuthEnable", rpc.AuthEnableResponse),
    rpc.AuthenticateRequest: ("Authenticate", rpc.AuthenticateResponse),
    rpc.AuthUserAddRequest: ("UserAdd", rpc.AuthUserAddResponse),
    rpc.AuthUserChangePasswordRequest: ("UserChangePassword", rpc.AuthUserChangePasswordResponse),
    rpc.AuthUserGrantRoleRequest: ("UserGrantRole", rpc.AuthUserGrantRoleResponse),
    rpc.AuthRoleAddRequest: ("RoleAdd", rpc.AuthRoleAddResponse),
    rpc.AuthRoleGrantPermissionRequest: ("RoleGrantPermission", rpc.AuthRoleGrantPermissionResponse),
}


async def administer(endpoint: str, *requests: Message, token: str = "") -> list[Any]:
    """Call methods of etcd's Auth service, one after the other; returns their answers.

    Args:
        endpoint: Host and port, without TLS.
        requests: Messages of the methods' own types, which say what is called.
        token: Of the user who calls.
    """
    answers = []
    async with grpc.aio.insecure_channel(endpoint) as channel:
        for request in requests:
            method, answer = _AUTH[type(request)]
            call = channel.unary_unary(
                f"/etcdserverpb.Auth/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            answers.append(await call(request, metadata=(("token", token),) if token else ()))
    return answers


class GuardedEtcd:
    """An etcd that lets in only user `root` with a password, over TLS; made by `guarded_etcd`.

    Attributes:
        etcd: The server.
        connection: What a connection file says: endpoint, authority (`ca.pem` beside it), user, password.
    """

    def __init__(self, etcd: LocalEtcd, connection: dict[str, str]) -> None:
        self.etcd = etcd
        self.connection = connection

    async def enable(self) -> None:
        """Ask for the password from now on."""
        await administer(
            self.etcd.endpoint,
            rpc.AuthUserAddRequest(name="root", password=self.connection["password"]),
            rpc.AuthUserGrantRoleRequest(user="root", role="root"),
            rpc.AuthEnableRequest(),
        )

    async def change_password(self, password: str) -> None:
        """Let `root` in with this password only."""
        known = rpc.AuthenticateRequest(name="root", password=self.connection["password"])
        (answer,) = await administer(self.etcd.endpoint, known)
        renewed = rpc.AuthUserChangePasswordRequest(name="root", password=password)
        await administer(self.etcd.endpoint, renewed, token=answer.token)
        self.connection["password"] = password


@contextlib.asynccontextmanager
async def guarded_etcd(folder: Path, password: str) -> AsyncIterator[GuardedEtcd]:
    """Start one; its certificate is `etcd-tls` in the folder, and may be exchanged while it runs."""
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    certificate, key = authority.issue("127.0.0.1").write(folder / "etcd-tls")
    plain, secure = free_port(), free_port()
    etcd = LocalEtcd(
        folder / "etcd",
        durable=False,
        arguments=(
            f"--listen-client-urls=http://127.0.0.1:{plain},https://127.0.0.1:{secure}",
            f"--cert-file={certificate}",
            f"--key-file={key}",
        ),
    )
    etcd.port = plain
    await asyncio.to_thread(etcd.start)
    try:
        endpoint = f"https://127.0.0.1:{secure}"
        connection = {"endpoints": endpoint, "certificate_file": "ca.pem", "userid": "root", "password": password}
        guarded = GuardedEtcd(etcd, connection)
        await guarded.enable()
        yield guarded
    finally:
        await asyncio.to_thread(etcd.stop)


@contextlib.contextmanager
def running_etcd(*, arguments: tuple[str, ...] = ()) -> Iterator[FaultyEtcd]:
    """Start an etcd in a temporary folder, in memory where there is such a thing; nothing is left behind."""
    parent = _MEMORY_FOLDER if _MEMORY_FOLDER.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="modelmesh-etcd-", dir=parent))
    etcd = FaultyEtcd(folder, durable=False, arguments=arguments)
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.kill()
        shutil.rmtree(folder, ignore_errors=True)
