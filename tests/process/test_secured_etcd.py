"""An instance whose etcd wants TLS and a password, given as ModelMesh clusters give it: a JSON file with relative names."""

import json
from pathlib import Path

import pytest
from conftest import StartMesh, eventually
from test_faults import serve

from modelmesh.testing.certificates import Authority
from modelmesh.testing.etcd import guarded_etcd

pytestmark = pytest.mark.process


async def test_an_instance_over_tls_with_a_password(start_mesh: StartMesh, tmp_path: Path) -> None:
    async with guarded_etcd(tmp_path, "secret words") as guarded:
        authority = (tmp_path / "ca.pem").read_bytes()
        file = tmp_path / "etcd_connection"
        file.write_text(json.dumps({**guarded.connection, "root_prefix": "prod"}))
        mesh = await start_mesh(environment={"KV_STORE": f"etcd:{file}"})
        await mesh.register("m", load=True, sync=True)
        assert (await mesh.predict("m")).results
        assert "secret words" not in mesh.log()

        await guarded.change_password("new words")
        file.write_text(json.dumps({**guarded.connection, "root_prefix": "prod"}))

        async def is_taken() -> bool:
            return "store_connection_changed" in mesh.log()

        await eventually(is_taken)
        await mesh.register("n", load=True, sync=True)
        assert "new words" not in mesh.log()

        (tmp_path / "ca.pem").write_bytes(Authority("strange").pem)
        status, output = await serve(tmp_path, KV_STORE=f"etcd:{file}")
        assert status == 3
        assert "Problem connecting to etcd" in output
        (tmp_path / "ca.pem").write_bytes(authority)
        file.write_text(json.dumps({**guarded.connection, "password": "wrong"}))
        status, output = await serve(tmp_path, KV_STORE=f"etcd:{file}")
        assert status == 3
        assert "authentication failed" in output
