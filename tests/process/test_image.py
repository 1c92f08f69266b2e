"""What the image is made of: its steps run here as they run in a container, in a clean directory."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import eventually
from test_stop import Instance, answered

from modelmesh.instance.sources import environment_names
from modelmesh.testing.scripted_runtime import ScriptedRuntime

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deploy" / "image"


def copied() -> list[str]:
    """What the build context holds, by its ignore file."""
    lines = (IMAGE / "Dockerfile.dockerignore").read_text().splitlines()
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def test_the_dockerfile_runs_the_steps_that_are_tested_here() -> None:
    steps = " ".join(re.findall(r"^RUN ((?:.*\\\n)*.*)$", (IMAGE / "Dockerfile").read_text(), flags=re.MULTILINE))
    assert "deploy/image/build.sh /wheels" in steps
    assert "deploy/image/install.sh instance /wheels /opt/kserve/mmesh" in steps
    assert "deploy/image/install.sh runtime /wheels" in steps
    assert "deploy/image/install.sh adapter /wheels /opt/app" in steps


def test_the_paths_are_those_of_the_old_image() -> None:
    text = (IMAGE / "Dockerfile").read_text()
    for said in (
        'CMD ["/opt/kserve/mmesh/start.sh"]',
        "WORKDIR /opt/kserve/mmesh",
        "ln -s /opt/kserve/mmesh /opt/kserve/tas",
        "USER 2000:0",
        f"{environment_names('anchor_file')[0]}=/opt/kserve/mmesh/run/model-mesh.anchor",
        f"{environment_names('install_folder')[0]}=/opt/kserve/mmesh",
    ):
        assert said in text


def test_the_locks_of_the_images_hold_what_the_project_needs() -> None:
    """Else an image would lack it: the wheel is installed without its dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for lock, needed in (
        ("instance", project["dependencies"]),
        ("runtime", [*project["dependencies"], *extras["sklearn"], *extras["onnx"]]),
        ("adapter", [*project["dependencies"], *extras["storage"]]),
    ):
        locked = (ROOT / "requirements" / f"{lock}.lock").read_text()
        for requirement in needed:
            name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
            assert re.search(rf"^{name}==", locked, flags=re.MULTILINE), f"{name} is not in {lock}.lock; run: make lock"


def test_the_programs_of_the_adapter_image_have_their_old_names(tmp_path: Path) -> None:
    subprocess.run([IMAGE / "commands.sh", tmp_path, "echo"], check=True)
    said = {file.name: subprocess.check_output([file, "x"], text=True) for file in tmp_path.iterdir()}
    servers = ("mlserver", "triton", "ovms", "torchserve")
    assert said == {"puller": "puller x\n", **{f"{name}-adapter": f"adapter {name} x\n" for name in servers}}


@pytest.mark.timeout(900)
async def test_the_steps_give_an_instance_that_starts_and_stops(tmp_path: Path) -> None:
    source, wheels, prefix = tmp_path / "source", tmp_path / "wheels", tmp_path / "mmesh"
    for name in copied():
        ignored = shutil.ignore_patterns("__pycache__", "target", "*.so")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}},
        "PYTHON": sys.executable,
        "CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target")),
        "BUILD_ID": "20260101-abcde",
    }
    await step(environment, source / "deploy/image/build.sh", wheels)
    await step(environment, source / "deploy/image/install.sh", "instance", wheels, prefix)
    shutil.rmtree(source)
    helped = await step(environment, prefix / "venv/bin/modelmesh", "serve", "--help")
    assert "MM_SERVICE_NAME" in helped

    async with ScriptedRuntime(listen=f"unix://{tmp_path}/runtime.sock") as runtime:
        instance = Instance(tmp_path, runtime.address)
        installed = {
            **environment,
            **instance.environment,
            "MM_SERVICE_NAME": "",
            "MM_INSTALL_PATH": str(prefix),
            "MM_ANCHOR_FILE": str(prefix / "run" / "model-mesh.anchor"),
        }
        with (tmp_path / "start.log").open("wb") as log:
            started = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [prefix / "start.sh", "my-cluster"], env=installed, cwd=prefix, stdout=log, stderr=log
            )
        try:

            async def ready() -> bool:
                assert started.poll() is None, (tmp_path / "start.log").read_text()
                return await answered(instance.probe, "/ready") == 200

            await eventually(ready, within=30)
            anchor = prefix / "run" / "model-mesh.anchor"
            assert anchor.read_text() == f"{started.pid}\n"  # start.sh has become the instance
            reaped = asyncio.create_task(asyncio.to_thread(started.wait, 30))
            # Without the variable, as the hook of an old manifest runs it.
            said = await step({**environment, "MM_ANCHOR_FILE": ""}, prefix / "stop.sh", "wait")
            assert said == f"process {started.pid} has stopped\n"
            assert await reaped == 0
        finally:
            if started.poll() is None:
                started.kill()
                started.wait()


async def step(environment: dict[str, str], *command: object) -> str:
    """Run one step of the image; its output."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()
