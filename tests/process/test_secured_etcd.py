"""An instance whose etcd wants TLS and a password, given as ModelMesh clusters give it: a JSON file with relative names."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from aetcd import rpc
from conftest import StartMesh, eventually
from test_faults import serve

from modelmesh.instance.local_cluster import free_port
from modelmesh.instance.local_etcd import LocalEtcd
from modelmesh.testing.certificates import Authority

pytestmark = pytest.mark.process


async def test_an_instance_over_tls_with_a_password(start_mesh: StartMesh, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    certificate, key = authority.issue("127.0.0.1").write(tmp_path / "etcd-tls")
    plain, secure = free_port(), free_port()
    etcd = LocalEtcd(
        tmp_path / "etcd",
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
        async with grpc.aio.insecure_channel(etcd.endpoint) as channel:
            auth = rpc.AuthStub(channel)
            await auth.UserAdd(rpc.AuthUserAddRequest(name="root", password="secret words"))
            await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
            await auth.AuthEnable(rpc.AuthEnableRequest())
            token = (await auth.Authenticate(rpc.AuthenticateRequest(name="root", password="secret words"))).token
        connection = {
            "endpoints": f"https://127.0.0.1:{secure}",
            "certificate_file": "ca.pem",
            "userid": "root",
            "password": "secret words",
            "root_prefix": "prod",
        }
        file = tmp_path / "etcd_connection"
        file.write_text(json.dumps(connection))
        mesh = await start_mesh(environment={"KV_STORE": f"etcd:{file}"})
        await mesh.register("m", load=True, sync=True)
        assert (await mesh.predict("m")).results
        assert "secret words" not in mesh.log()

        async with grpc.aio.insecure_channel(etcd.endpoint) as channel:
            renewed = rpc.AuthUserChangePasswordRequest(name="root", password="new words")
            await rpc.AuthStub(channel).UserChangePassword(renewed, metadata=(("token", token),))
        file.write_text(json.dumps({**connection, "password": "new words"}))

        async def is_taken() -> bool:
            return "store_connection_changed" in mesh.log()

        await eventually(is_taken)
        await mesh.register("n", load=True, sync=True)
        assert "new words" not in mesh.log()

        (tmp_path / "ca.pem").write_bytes(Authority("strange").pem)
        status, output = await serve(tmp_path, KV_STORE=f"etcd:{file}")
        assert status == 3
        assert "Problem connecting to etcd" in output
        (tmp_path / "ca.pem").write_bytes(authority.pem)
        file.write_text(json.dumps({**connection, "password": "wrong"}))
        status, output = await serve(tmp_path, KV_STORE=f"etcd:{file}")
        assert status == 3
        assert "authentication failed" in output
    finally:
        await asyncio.to_thread(etcd.stop)
