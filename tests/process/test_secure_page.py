"""Access rules at a real instance: what the page on them shows, and a document that changes while it serves."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from conftest import StartMesh, eventually
from test_documents import swap
from typer.testing import CliRunner

from modelmesh._proto import admin_pb2 as pb
from modelmesh._proto import model_mesh_pb2 as wire
from modelmesh.cli import app
from modelmesh.instance.access_document import parse_access
from modelmesh.kubernetes.adapters.mesh import LONGEST_KEY, GrpcMesh
from modelmesh.kubernetes.ports import MeshError
from modelmesh.policy.access import hash_of_key
from modelmesh.values.status import Status

pytestmark = pytest.mark.process

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "secure-a-mesh.md").read_text()
KEY = "mm_a-key-of-this-test"
ALL = {"to": ["setup"], "verbs": ["infer", "load", "register", "admin"], "models": ["*"], "vmodels": ["*"]}


def document(*, anonymous: bool, models: list[str]) -> str:
    body = {
        "principals": [
            {"name": "setup", "anonymous": anonymous},
            {"name": "reporting", "keys": [f"sha256:{hash_of_key(KEY)}"]},
        ],
        "grants": [ALL, {"to": ["reporting"], "verbs": ["infer"], "models": models}],
    }
    return json.dumps(body)


async def run(*command: str, key: str = "") -> tuple[int, str]:
    environment = {**os.environ, "MODELMESH_API_KEY": key}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_rules_at_a_running_instance(start_mesh: StartMesh, tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    swap(folder, "access.json", document(anonymous=True, models=["fraud-*"]))
    mesh = await start_mesh(environment={"MM_ACCESS_PATH": str(folder / "access.json")})
    for model in ("fraud-7", "risk"):
        await mesh.register(model)
    swap(folder, "access.json", document(anonymous=False, models=["fraud-*"]))
    instance = mesh.cluster.instances[0]
    listing = (sys.executable, "-m", "modelmesh.cli", "models", "list", "--address", instance.endpoint)

    async def is_closed() -> bool:
        return (await run(*listing))[0] == 1

    await eventually(is_closed)
    status, said = await run(*listing)
    assert (status, "UNAUTHENTICATED" in said) == (1, True), said
    status, said = await run(*listing, key=KEY)
    assert status == 0, said
    assert "fraud-7" in said
    assert "risk" not in said

    async def get(path: str, *more: str) -> tuple[str, str]:
        _, out = await run("curl", "-s", "-w", "\n%{http_code}", f"{instance.rest_url}{path}", *more)
        body, _, code = out.rpartition("\n")
        return code, body

    assert (await get("/v2/models/fraud-7"))[0] == "401"
    assert (await get("/v2/health/ready"))[0] == "200"
    bearer = ("-H", f"authorization: Bearer {KEY}")
    assert await get("/v2/models", *bearer) == ("200", '{"models":["fraud-7"]}')
    assert (await get("/v2/models/risk", *bearer))[0] == "403"
    load = ("-X", "POST", *bearer)
    assert (await get("/v2/repository/models/fraud-7/load", *load))[0] == "403"

    swap(folder, "access.json", document(anonymous=False, models=["*"]).replace("infer", "call"))

    async def refused() -> bool:
        return "document_refused" in mesh.log()

    await eventually(refused)
    assert "grants.1.verbs.0" in mesh.log()
    assert (await get("/v2/models/risk", *bearer))[0] == "403", "the last valid document stays in force"
    swap(folder, "access.json", document(anonymous=False, models=["*"]))

    async def sees_both() -> bool:
        return "risk" in (await get("/v2/models", *bearer))[1]

    await eventually(sees_both)


def test_the_documents_and_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *parts = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    parse_access(first)
    for part in parts:
        body = yaml.safe_load(part)
        assert parse_access(json.dumps(body)).principals
    (tmp_path / "access.yaml").write_text(first)
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"^\$ modelmesh (access check .*)\n(.*)$", PAGE, flags=re.MULTILINE)
    assert len(shown) == 2
    for command, answer in shown:
        assert CliRunner().invoke(app, command.split()).output.replace("\n", " ").strip() == answer


async def test_the_controller_shows_its_key_to_a_mesh_with_rules(start_mesh: StartMesh, tmp_path: Path) -> None:
    (block,) = (
        block for block in re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL) if "name: controller" in block
    )
    rules = yaml.safe_load(re.sub("sha256:[0-9a-f]+", f"sha256:{hash_of_key(KEY)}", block))
    # What the test itself registers with.
    rules["principals"].append({"name": "setup", "anonymous": True})
    rules["grants"].append({"to": ["setup"], "verbs": ["register"], "models": ["test-*"]})
    (tmp_path / "access.json").write_text(json.dumps(rules))
    mesh = await start_mesh(environment={"MM_ACCESS_PATH": str(tmp_path / "access.json")})
    key_file = tmp_path / "key"
    endpoint = mesh.cluster.instances[0].endpoint
    request = wire.SetVModelRequest(
        vModelId="v", targetModelId="m", modelInfo=wire.ModelInfo(type="example", path="p"), loadNow=True
    )

    async def tried(key: str | None) -> Status | wire.VModelStatusInfo:
        if key is not None:
            key_file.write_text(key)
        try:
            return await calls.set_vmodel(request)
        except MeshError as error:
            return error.code

    calls = GrpcMesh(endpoint, key_file=key_file)
    try:
        for unusable in (None, "", "two\nlines", "x" * (LONGEST_KEY + 1), "é"):
            assert await tried(unusable) is Status.UNAUTHENTICATED, unusable
        assert await tried("another key") is Status.UNAUTHENTICATED
        answer = await tried(KEY + "\n")
        assert isinstance(answer, wire.VModelStatusInfo), answer
        assert answer.targetModelId == "m"
        async with asyncio.timeout(60):
            updates = calls.watch(pb.WatchStatusRequest())
            assert (await anext(updates)).number
            await updates.aclose()
    finally:
        await calls.close()


async def test_quotas_of_a_tenant_at_a_running_instance(start_mesh: StartMesh, tmp_path: Path) -> None:
    rules = json.loads(document(anonymous=False, models=["*"]))
    rules["principals"][1]["tenant"] = "finance"
    rules["grants"].append({"to": ["reporting"], "verbs": ["register"], "models": ["*"], "vmodels": ["*"]})
    rules["tenants"] = {"finance": {"models": 1, "loaded_bytes": "1KiB"}}
    (tmp_path / "access.json").write_text(json.dumps(rules))
    mesh = await start_mesh(environment={"MM_ACCESS_PATH": str(tmp_path / "access.json")})
    instance = mesh.cluster.instances[0]

    async def register(model: str) -> tuple[int, str]:
        command = ("models", "register", model, "--type", "example", "--path", "p", "--address", instance.endpoint)
        return await run(sys.executable, "-m", "modelmesh.cli", *command, key=KEY)

    assert (await register("m"))[0] == 0
    listing = (sys.executable, "-m", "modelmesh.cli", "tenants", "--address", instance.endpoint)
    status, said = await run(*listing, key=KEY)
    assert (status, said.splitlines()[-1].split()) == (0, ["finance", "1", "1", "0", "B", "1.0", "KiB", "-", "-"]), said
    status, said = await run(*listing, "--json", key=KEY)
    assert json.loads(said)["tenants"][0]["loaded_bytes_limit"] == 1024
    status, said = await register("n")
    assert (status, "tenant finance has 1 models registered, its limit is 1" in " ".join(said.split())) == (1, True)
    body = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}'
    command = ("curl", "-s", "-i", f"{instance.rest_url}/v2/models/m/infer", "-d", body, "-H", f"x-api-key: {KEY}")
    _, answer = await run(*command)
    head, _, error = answer.replace("\r", "").partition("\n\n")
    assert head.startswith("HTTP/1.1 429"), answer
    assert "retry-after: " in head
    assert "and tenant finance may have 1.0 KiB loaded in all" in json.loads(error)["error"]
