"""Models with packages of their own: they run with the Python that the operator has named for their environment."""

import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest

from modelmesh.runtime import LoadError, ModelSource
from modelmesh.runtime.environments import Environment
from modelmesh.runtime.formats import discovered
from modelmesh.runtime.pulled import PullingRuntime
from modelmesh.storage import DiskCache
from modelmesh.values.status import Status

SOURCE = Path(__file__).parents[2] / "src"
MODEL = """
import numpy
import only_there


class Model:
    def __init__(self, folder):
        pass

    def infer(self, inputs, parameters):
        return {"y": inputs["x"] * only_there.FACTOR}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An environment with a package that this one has not. It takes the others from here, as installing them takes long."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "others.pth").write_text(f"{SOURCE}\n{sysconfig.get_path('purelib')}\n")
    (packages / "only_there.py").write_text("FACTOR = 3")
    return Environment("old", python)


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    return folder.parent


@pytest.fixture
def serve_with(tmp_path, models, served):
    async def start(*environments, trained=None):
        runtime = PullingRuntime(
            cache=DiskCache(tmp_path / "cache", 1 << 30), models=trained or models, environments=environments
        )
        return await served(runtime, listen="127.0.0.1:0")

    return start


def source(kind, path="m"):
    return ModelSource("m", type=kind, path=path)


async def test_a_model_runs_with_the_packages_of_its_environment(serve_with, made):
    server = await serve_with(made)
    loaded = await server.models.load(source("python@old"))
    assert loaded.size_bytes > 1_000_000, "measured, as that of each process"
    model = server.models._entries["m"].model
    answer = await model.infer({"x": np.ones(2)}, {})
    assert answer["y"].tolist() == [3.0, 3.0]
    await server.models.unload("m")
    with pytest.raises(LoadError, match="needs the Python module 'only_there', which is not installed here"):
        await server.models.load(source("python"))


async def test_other_formats_run_there_too(serve_with, made, trained):
    server = await serve_with(made, trained=trained)
    for path, kind in (("one", "sklearn@old"), ("iris.onnx", "mt:onnx@old:1")):
        await server.models.load(source(kind, path))
        assert server.models._entries["m"].signature.inputs
        await server.models.unload("m")


async def test_who_registers_a_model_cannot_name_a_program(serve_with, made):
    server = await serve_with(made)
    for kind in ("python@new", f"python@{sys.executable}", "python@"):
        with pytest.raises(LoadError) as caught:
            await server.models.load(source(kind))
        assert caught.value.status in {Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION}
    with pytest.raises(LoadError, match="model type 'python@new' names environment 'new'; this runtime has old"):
        await server.models.load(source("python@new"))


async def test_without_a_folder_of_models_nothing_is_loaded_there(tmp_path, trained, served, made):
    runtime = PullingRuntime(cache=DiskCache(tmp_path / "cache", 1 << 30), environments=[made])
    server = await served(runtime, listen="127.0.0.1:0")
    with pytest.raises(LoadError, match="can run code") as caught:
        await server.models.load(source("onnx@old", str(trained / "iris.onnx")))
    assert caught.value.status is Status.PERMISSION_DENIED


async def test_a_python_without_this_package_is_named(serve_with, tmp_path):
    venv.create(tmp_path / "bare", symlinks=True)
    server = await serve_with(Environment("bare", tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(
        LoadError, match=r"no process for model m: .*/bare/bin/python has ended; is pymodelmesh .* installed"
    ):
        await server.models.load(source("python@bare"))


async def test_another_version_of_this_package_is_named(serve_with, tmp_path, made, capfd):
    wrapped = tmp_path / "python"
    wrapped.write_text(
        f"#!/bin/sh\nexec {made.python} -c \"import sys, modelmesh; modelmesh.__version__ = '0.0.1'; "
        'from modelmesh.runtime.workers.forkserver import main; main(sys.argv[3:])" "$@"\n'
    )
    wrapped.chmod(0o755)
    server = await serve_with(Environment("older", wrapped))
    with pytest.raises(LoadError, match=r"is pymodelmesh .* installed for it"):
        await server.models.load(source("python@older"))
    assert "pymodelmesh 0.0.1 is installed for" in capfd.readouterr().err


def test_variables_that_lead_to_the_packages_of_the_runtime_are_not_passed_on(monkeypatch, made):
    from modelmesh.runtime.workers.processes import ForkServer

    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("KEPT", "yes")
    variables = ForkServer([], made.python)._variables()
    assert "PYTHONPATH" not in variables
    assert variables["KEPT"] == "yes"
    assert ForkServer([])._variables() is None


class TestOption:
    def test_name_and_python(self, made):
        assert Environment.parse(f"old={made.python}") == made

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("old", "write it like"),
            ("=/bin/sh", "write it like"),
            ("Old=/bin/sh", "write it like"),
            ("a@b=/bin/sh", "write it like"),
            ("old=python3", "no program"),
            ("old=/nowhere/python", "no program"),
            (f"old={__file__}", "no program"),
            ("old=/etc", "no program"),
        ],
    )
    def test_what_makes_no_sense(self, text, said):
        with pytest.raises(ValueError, match=said):
            Environment.parse(text)

    def test_formats_of_environments_are_not_among_those_that_suffixes_find(self):
        formats = discovered().within(["old"])
        assert formats.by_suffix(Path("a.onnx")) == "onnx"
        assert formats.get("onnx@old") is formats.get("onnx@old")
        assert "onnx@old" not in formats.names
