"""TorchScript in the built-in runtime, as far as it goes without torch; with it: `tests/servers/real_torchserve.py`."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelmesh.runtime import LoadError, ModelSource, RequestError
from modelmesh.runtime.files import FileRuntime
from modelmesh.runtime.torchscript import arguments_of, cause_of, in_order
from modelmesh.values.status import Status


@dataclass
class Argument:
    name: str
    type: str = "Tensor"
    default: bool = False

    def has_default_value(self) -> bool:
        return self.default


def test_what_forward_takes() -> None:
    arguments = [
        Argument("self", "__torch__.M"),
        Argument("x"),
        Argument("scale", "float", default=True),
        Argument("y"),
    ]
    assert arguments_of(Path("m"), arguments) == ["x", "y"]
    with pytest.raises(LoadError, match=r"forward takes 'words', a List\[str\]"):
        arguments_of(Path("m"), [Argument("self"), Argument("words", "List[str]")])


@pytest.mark.parametrize(
    ("arguments", "names", "order"),
    [
        (["x", "y"], ["y", "x"], ["x", "y"]),
        (["x", "y"], ["INPUT__1", "INPUT__0"], ["INPUT__0", "INPUT__1"]),
        (["x"], ["input__0"], ["input__0"]),
        (["x"], ["x"], ["x"]),
        (["a__1", "b__0"], ["a__1", "b__0"], ["a__1", "b__0"]),
    ],
)
def test_inputs_by_name_or_number(arguments: list[str], names: list[str], order: list[str]) -> None:
    assert in_order(arguments, names) == order


@pytest.mark.parametrize(
    "names", [[], ["z"], ["x", "y", "z"], ["in__0", "in__2"], ["in__0", "other__0"], ["x", "in__1"]]
)
def test_other_inputs_are_named(names: list[str]) -> None:
    with pytest.raises(RequestError, match="the model takes 'x', 'y', or that many inputs named NAME__0"):
        in_order(["x", "y"], names)


def test_the_last_line_of_torchs_traceback_is_the_cause() -> None:
    text = "The following operation failed\nTraceback of TorchScript:\n  File 'x'\nRuntimeError: mat1 and mat2\n"
    assert cause_of(RuntimeError(text)) == "mat1 and mat2"
    assert cause_of(RuntimeError("")) == "RuntimeError"


def test_without_torch_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "m.ts").write_bytes(b"x")
    with pytest.raises(LoadError, match=r"torch is missing: pip install pymodelmesh\[torchscript\]") as caught:
        FileRuntime(models=tmp_path).load(ModelSource("m", "", "m.ts"))
    assert caught.value.status is Status.FAILED_PRECONDITION
