"""Models that are Python themselves."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from modelmesh.runtime import LoadError, ModelSource, RuntimeFault
from modelmesh.runtime.files import FileRuntime
from modelmesh.values.status import Status

GOOD = """
import numpy
from modelmesh.runtime import ModelSignature, TensorSpec
from .helpers import FACTOR

class Model:
    signature = ModelSignature((TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))

    def __init__(self, folder):
        self.ballast = numpy.load(folder / "weights.npy")
        self.folder = folder

    def infer(self, inputs, parameters):
        return {"y": inputs["x"] * FACTOR + self.ballast[0]}

    def close(self):
        (self.folder / "closed").touch()
"""

NO_LICENCE = """
from modelmesh.runtime import LoadError
from modelmesh.values.status import Status

raise LoadError("no licence", status=Status.PERMISSION_DENIED)
"""


def write(folder: Path, text: str = GOOD, factor: int = 2) -> Path:
    folder.mkdir()
    (folder / "model.py").write_text(text)
    (folder / "helpers.py").write_text(f"FACTOR = {factor}\n")
    np.save(folder / "weights.npy", np.ones(1000))
    return folder


def ask(runtime: FileRuntime, model, x: float) -> float:
    return float(runtime.infer(model, {"x": np.array([x])}, {})["y"][0])


@pytest.mark.parametrize(("kind", "path"), [("python", "a"), ("", "a"), ("auto", "a/model.py"), ("mt:python", "a")])
def test_a_folder_is_a_model(tmp_path: Path, kind: str, path: str) -> None:
    write(tmp_path / "a")
    runtime = FileRuntime(models=tmp_path)
    model = runtime.load(ModelSource("m", kind, path))
    assert ask(runtime, model, 3) == 7
    assert model.size_bytes == runtime.predict_size(ModelSource("m", kind, path)) > 8000
    assert sorted(os.listdir(tmp_path / "a")) == ["helpers.py", "model.py", "weights.npy"], "no bytecode is left"


def test_models_do_not_see_each_others_modules(tmp_path: Path) -> None:
    runtime, before = FileRuntime(models=tmp_path), set(sys.modules)
    models = [runtime.load(ModelSource(str(n), "python", write(tmp_path / str(n), factor=n).name)) for n in range(1, 4)]
    assert [ask(runtime, model, 10) for model in models] == [11, 21, 31]
    again = runtime.load(ModelSource("again", "python", "2"))
    assert ask(runtime, again, 10) == 21
    own = {name for name in set(sys.modules) - before if name.startswith("_modelmesh_model_")}
    assert len(own) == 12
    for model in (*models, again):
        runtime.unload(model)
    assert not own & set(sys.modules)
    assert (tmp_path / "1" / "closed").exists()


def test_a_class_that_knows_its_size(tmp_path: Path) -> None:
    text = "class Model:\n    size_bytes = 12345\n    def __init__(self, folder): pass\n    def infer(self, i, p): return i"
    write(tmp_path / "a", text)
    model = FileRuntime(models=tmp_path).load(ModelSource("m", "python", "a"))
    assert model.size_bytes == 12345
    assert model.signature.inputs == ()


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("x = ", "INVALID_ARGUMENT", "SyntaxError"),
        ("y = 1", "INVALID_ARGUMENT", "has no class Model"),
        ("class Model:\n def __init__(self, f): pass", "INVALID_ARGUMENT", "has no method infer"),
        ("class Model:\n def __init__(self, f): raise KeyError('w')", "INVALID_ARGUMENT", "KeyError: 'w'"),
        ("raise SystemExit(3)", "INVALID_ARGUMENT", "SystemExit: 3"),
        ("raise StopIteration", "INVALID_ARGUMENT", "StopIteration"),
        ("import no_such_module", "FAILED_PRECONDITION", "'no_such_module', which is not installed here"),
        ("from .missing import x", "INVALID_ARGUMENT", "ModuleNotFoundError"),
        (
            "class Model:\n signature = 1\n def __init__(self, f): pass\n def infer(self, i, p): pass",
            "INVALID_ARGUMENT",
            "signature is a int",
        ),
        (
            NO_LICENCE,
            "PERMISSION_DENIED",
            "no licence",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, status: str, message: str) -> None:
    write(tmp_path / "a", text)
    before = set(sys.modules)
    with pytest.raises(LoadError) as caught:
        FileRuntime(models=tmp_path).load(ModelSource("m", "python", "a"))
    assert caught.value.status is Status[status]
    assert message in str(caught.value)
    assert str(tmp_path / "a" / "model.py") in str(caught.value)
    assert not {name for name in set(sys.modules) - before if name.startswith("_modelmesh_model_")}


def test_an_answer_that_is_no_mapping(tmp_path: Path) -> None:
    write(tmp_path / "a", "class Model:\n def __init__(self, f): pass\n def infer(self, i, p): return [1]")
    runtime = FileRuntime(models=tmp_path)
    with pytest.raises(RuntimeFault, match="returned a list, not a dict of arrays"):
        runtime.infer(runtime.load(ModelSource("m", "python", "a")), {}, {})


def test_only_from_folders_that_the_operator_named(tmp_path: Path) -> None:
    write(tmp_path / "a", f"open({str(tmp_path / 'was here')!r}, 'w')")
    with pytest.raises(LoadError, match="--models FOLDER") as caught:
        FileRuntime().load(ModelSource("m", "python", str(tmp_path / "a")))
    assert caught.value.status is Status.PERMISSION_DENIED
    assert not (tmp_path / "was here").exists()
