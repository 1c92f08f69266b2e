"""Models that are Python themselves."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_files import load
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

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


WORDS = """
import numpy

class Model:
    def __init__(self, folder):
        self.folder = folder

    def infer(self, inputs, parameters):
        try:
            for word in inputs["text_input"].item().decode().split():
                if word == "stop":
                    raise ValueError("stopped")
                yield numpy.array([word]) if word == "bare" else {"text_output": numpy.array([word])}
        finally:
            (self.folder / "closed").touch()
"""


@pytest.fixture
async def words(tmp_path: Path, served: Any) -> AsyncIterator[InferenceServerClient]:
    write(tmp_path / "a", WORDS)
    server = await served(FileRuntime(models=tmp_path), listen="127.0.0.1:0")
    await load(server, "a", kind="python", model="m")
    async with InferenceServerClient(server.address) as client:
        yield client


def text(value: str) -> InferInput:
    made = InferInput("text_input", [1], "BYTES")
    made.set_data_from_numpy(np.array([value.encode()], object))
    return made


async def test_a_generator_answers_each_time_it_yields(words: InferenceServerClient, tmp_path: Path) -> None:
    async def requests() -> AsyncIterator[dict[str, object]]:
        for number, said in enumerate(["to be", "or bare", "not stop x", "end"]):
            yield {"model_name": "m", "inputs": [text(said)], "request_id": str(number)}

    said = []
    async for result, error in words.stream_infer(requests()):
        word = None if error is not None else result.as_numpy("text_output").item().decode()
        said.append(str(error) if word is None else word)
    assert said[:3] == ["to", "be", "or"]
    assert "not a dict of arrays" in said[3]
    assert said[4] == "not"
    assert "ValueError: stopped" in said[5]
    assert said[6:] == ["end"], "the stream goes on"
    assert (tmp_path / "a" / "closed").exists()


async def test_a_generator_that_yields_once_answers_a_plain_call(words: InferenceServerClient, tmp_path: Path) -> None:
    for _ in range(100):  # quick models run on the event loop after a while; generators never
        result = await words.infer("m", [text("one")])
        assert result.as_numpy("text_output").item() == b"one"
    for several in ("to be", ""):
        (tmp_path / "a" / "closed").unlink()
        with pytest.raises(InferenceServerException, match="call it by ModelStreamInfer"):
            await words.infer("m", [text(several)])
        assert (tmp_path / "a" / "closed").exists(), "what is not wanted is not made"


def test_only_from_folders_that_the_operator_named(tmp_path: Path) -> None:
    write(tmp_path / "a", f"open({str(tmp_path / 'was here')!r}, 'w')")
    with pytest.raises(LoadError, match="--models FOLDER") as caught:
        FileRuntime().load(ModelSource("m", "python", str(tmp_path / "a")))
    assert caught.value.status is Status.PERMISSION_DENIED
    assert not (tmp_path / "was here").exists()
