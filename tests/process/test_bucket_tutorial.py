"""The tutorial on a bucket, as it stands: its files, its commands, its answers."""

import asyncio
import contextlib
import json
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually
from test_up import up

from modelmesh.instance.local_cluster import free_port

pytestmark = pytest.mark.process
PAGE = (Path(__file__).parents[2] / "docs" / "tutorials" / "serve-a-model-from-a-bucket.md").read_text()


def block(kind: str) -> str:
    (text,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)
    return text


CURLS = re.findall(r"^\$ (curl .*)$", PAGE, flags=re.MULTILINE)
(ANSWER,) = re.findall(r"^(\{\"model_name\".*\})$", PAGE, flags=re.MULTILINE)
UPS = [shlex.split(line)[2:] for line in re.findall(r"^\$ (modelmesh up .*)$", PAGE, flags=re.MULTILINE)]


@contextlib.asynccontextmanager
async def bucket(port: int) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "ignore", "-c"),
        f"import sys; sys.argv = ['moto', '-H', '127.0.0.1', '-p', '{port}']; import moto.server; moto.server.main()",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def listens() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    try:
        await eventually(listens)
        yield
    finally:
        process.kill()
        await process.wait()


async def curl(command: str, url: str) -> dict[str, Any]:
    words = shlex.split(command.replace("localhost:8008", url.removeprefix("http://")))
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.timeout(180)
async def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()

    def here(text: str) -> str:
        return text.replace("127.0.0.1:5001", f"127.0.0.1:{port}")

    (tmp_path / "storage").mkdir()
    (tmp_path / "manifests").mkdir()
    (tmp_path / "train.py").write_text(here(block("python")))
    (tmp_path / "storage" / "my-bucket").write_text(here(block("json")))
    manifest = tmp_path / "manifests" / "models.yaml"
    manifest.write_text(block("yaml"))
    cache = {"MODELMESH_CACHE": str(tmp_path / "cache")}
    async with bucket(port):
        trained = await asyncio.create_subprocess_exec(sys.executable, "-W", "ignore", "train.py")
        assert await trained.wait() == 0
        async with up(*UPS[0], environment=cache) as running:
            (url,) = set(re.findall(r"http://127\.0\.0\.1:\d+(?= |\n)", running.said))
            refused = await curl(CURLS[0], url)
            assert "--trust 's3://models/iris/*'" in refused["error"]
        assert UPS[1][-2:] == ["--trust", "s3://models/iris/*"]
        async with up(*UPS[1], environment=cache) as running:
            (url,) = set(re.findall(r"http://127\.0\.0\.1:\d+(?= |\n)", running.said))
            assert await curl(CURLS[1], url) == json.loads(ANSWER)
            manifest.write_text(block("yaml").replace("regression.joblib", "tree.joblib"))
            await running.says("move iris")
            assert await curl(CURLS[1], url) == json.loads(ANSWER)
