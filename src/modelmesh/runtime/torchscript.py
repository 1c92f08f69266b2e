"""TorchScript models (`torch.jit.save`), on the CPU, on one thread a call.

A TorchScript file has the names of the tensors that `forward` takes, but not their types and shapes; so requests are checked by
the model itself. Inputs may also be named as Triton has it: `anything__0`, `anything__1`, in the order of the arguments. Outputs are
`output`, or `output_0`, `output_1`, … of a tuple or list, or the names of a dict.
"""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelmesh.runtime.contract import ModelSignature
from modelmesh.runtime.errors import LoadError, RequestError, RuntimeFault
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

FLOOR_BYTES = 512 * 1024
"""For the program and the module around the weights."""

_NUMBERED = re.compile(r".*__(\d{1,4})")


class TorchscriptFormat:
    """Files written by `torch.jit.save`. Files of `torch.save`, which hold no program, are none."""

    suffixes = (".torchscript", ".ts")
    named_suffixes = (".pt", ".pth")
    runs_code = True

    def __init__(self) -> None:
        # Here, not above: this module is looked into where torch, with gigabytes of libraries, is not installed.
        self._torch: Any = importlib.import_module("torch")
        self._torch.set_num_threads(1)

    def predict_size(self, path: Path) -> int:
        """From the file's size: weights lie in it as they are."""
        return path.stat().st_size + FLOOR_BYTES

    def load(self, path: Path) -> "TorchscriptModel":
        """Load a file.

        Raises:
            LoadError: INVALID_ARGUMENT: it is broken, of another kind, or `forward` takes what no tensor is.
                FAILED_PRECONDITION: it cannot be read.
        """
        try:
            with path.open("rb"):
                pass
            module = self._torch.jit.load(str(path), map_location="cpu")
        except OSError as error:
            raise LoadError(f"{path}: cannot be read ({error.strerror})", status=Status.FAILED_PRECONDITION) from error
        except MemoryError:
            raise
        except Exception as error:  # RuntimeError mostly; a damaged archive may raise anything
            raise LoadError(f"{path}: is no TorchScript model that can be loaded here ({cause_of(error)})") from error
        module.eval()
        return TorchscriptModel(self._torch, path, module)


class TorchscriptModel:
    """A module in memory."""

    def __init__(self, torch: Any, path: Path, module: Any) -> None:
        self._torch = torch
        self._module = module
        self._arguments = arguments_of(path, module.forward.schema.arguments)
        weights = (*module.parameters(), *module.buffers())
        self.size_bytes = sum(one.numel() * one.element_size() for one in weights) + FLOOR_BYTES
        self.signature = ModelSignature(platform="torchscript")

    def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Mapping[str, Tensor]":
        """Call `forward`.

        Raises:
            RequestError: The inputs are not those of `forward`, or it refuses them.
            RuntimeFault: INTERNAL: what it returns is neither a tensor, nor some.
        """
        del parameters
        names = in_order(self._arguments, list(inputs))
        try:
            given = [self._torch.tensor(inputs[name]) for name in names]
            with self._torch.inference_mode():
                found = self._module(*given)
        except (RuntimeError, TypeError) as error:
            if isinstance(error, RuntimeFault):
                raise
            shapes = ", ".join(f"{name!r} {list(inputs[name].shape)}" for name in names)
            raise RequestError(f"the model cannot take these inputs: {shapes} ({cause_of(error)})") from error
        return self._named(found)

    def close(self) -> None:
        """Drop the module."""
        self._module = None

    def _named(self, found: Any) -> "dict[str, Tensor]":
        if self._torch.is_tensor(found):
            return {"output": found.numpy()}
        if isinstance(found, Mapping):
            named = dict(found)
        elif isinstance(found, tuple | list):
            named = {f"output_{number}": one for number, one in enumerate(found)}
        else:
            raise RuntimeFault(f"forward returned a {type(found).__name__}, which is no tensor")
        wrong = next((one for one in named.values() if not self._torch.is_tensor(one)), None)
        if wrong is not None:
            raise RuntimeFault(f"forward returned a {type(wrong).__name__} among its tensors")
        return {name: one.numpy() for name, one in named.items()}


def arguments_of(path: Path, arguments: Any) -> list[str]:
    """The names of the tensors that `forward` takes, in order; arguments of other types must have a default."""
    found = []
    for one in arguments[1:]:  # the first is the module
        if str(one.type) == "Tensor":
            found.append(str(one.name))
        elif not one.has_default_value():
            raise LoadError(f"{path}: forward takes {one.name!r}, a {one.type}, which cannot be sent")
    return found


def in_order(arguments: list[str], names: list[str]) -> list[str]:
    """The names of a request in the order of `forward`.

    Raises:
        RequestError: They are not its arguments, and not numbered from 0 either.
    """
    if sorted(names) == sorted(arguments):
        return arguments
    numbers = {name: int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))}
    if len(names) == len(arguments) and sorted(numbers.values()) == list(range(len(names))):
        return sorted(names, key=numbers.__getitem__)
    takes = ", ".join(map(repr, arguments))
    raise RequestError(f"the model takes {takes}, or that many inputs named NAME__0, NAME__1, …; it got {names}")


def cause_of(error: Exception) -> str:
    """The message of torch, on one line: the last of TorchScript's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("RuntimeError:")] or lines[:1]
    return told[-1].removeprefix("RuntimeError: ")[:300] if told else type(error).__name__
