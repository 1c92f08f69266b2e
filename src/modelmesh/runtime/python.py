"""Models that are Python themselves: a folder with `model.py`, and in it a class `Model`.

    class Model:
        def __init__(self, folder):  # a pathlib.Path: where model.py and what lies beside it are
            self.weights = numpy.load(folder / "weights.npy")

        def infer(self, inputs, parameters):  # numpy arrays by name, in and out
            return {"output": inputs["input"] @ self.weights}

Optional attributes of the class: `signature`, a `modelmesh.runtime.ModelSignature`, against which requests are checked;
`batching`, a `modelmesh.runtime.Batching`, if requests may be put together; `size_bytes`, the memory it takes; `close()`. `infer` is called from several threads at once. If it is a generator, each
answer that it yields is sent at once.

The folder is a package of its own: `from .helpers import x` finds `helpers.py` beside it, and never another model's.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelmesh.runtime.contract import MIB, Batching, ModelSignature
from modelmesh.runtime.errors import LoadError, RuntimeFault
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

CLASS = "Model"
FLOOR_BYTES = MIB
"""For the class and its module."""
MAX_FILES = 100_000
"""Of a folder whose size is asked for."""

_numbers = itertools.count(1)

# Folders of models are not to be written to: in the disk cache their content belongs to their name.
sys.dont_write_bytecode = True


class PythonFormat:
    """Folders with a `model.py`."""

    suffixes = ("model.py",)
    runs_code = True

    def predict_size(self, path: Path) -> int:
        """The size of its folder's files, and a little; the class may know better once it is there."""
        files = itertools.islice((file for file in path.parent.rglob("*") if file.is_file()), MAX_FILES)
        return sum(file.stat().st_size for file in files) + FLOOR_BYTES

    def load(self, path: Path) -> "PythonModel":
        """Run `model.py` and make its `Model`.

        Raises:
            LoadError: INVALID_ARGUMENT: it raises, or has no such class. FAILED_PRECONDITION: it needs a module that is
                not installed. With the model's own status, if it raises a LoadError itself.
        """
        package = f"_modelmesh_model_{next(_numbers)}"
        try:
            made = _made(path, package)
            return PythonModel(made, package, self.predict_size(path))
        except MemoryError:
            _forget(package)
            raise
        except BaseException as error:  # SystemExit too: it would end the process, and all other models with it
            _forget(package)
            raise _load_error(path, error) from error


class PythonModel:
    """What a `Model` class made."""

    def __init__(self, made: Any, package: str, predicted_bytes: int) -> None:
        self._made = made
        self._package = package
        stated = getattr(made, "size_bytes", None)
        self.size_bytes = predicted_bytes if stated is None else int(stated)
        self.signature = getattr(made, "signature", ModelSignature())
        if not isinstance(self.signature, ModelSignature):
            raise LoadError(f"its signature is a {type(self.signature).__name__}, not a ModelSignature")
        self.batching = getattr(made, "batching", None)
        if not isinstance(self.batching, Batching | None):
            raise LoadError(f"its batching is a {type(self.batching).__name__}, not a Batching")
        if self.size_bytes < 0 or not callable(getattr(made, "infer", None)):
            raise LoadError("it has no method infer" if self.size_bytes >= 0 else "its size is negative")

    def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Mapping[str, Tensor] | Iterator[Mapping[str, Tensor]]":
        """As the class answers: once, or each time that its generator yields.

        Raises:
            RuntimeFault: INTERNAL: an answer is no mapping of names to arrays.
        """
        found = self._made.infer(inputs, parameters)
        return _each_checked(found) if inspect.isgenerator(found) else _checked(found)

    def close(self) -> None:
        """Have the class give back what it holds, and drop its modules."""
        made, self._made = self._made, None
        close = getattr(made, "close", None)
        try:
            if close is not None:
                close()
        finally:
            _forget(self._package)


def _checked(found: object) -> "Mapping[str, Tensor]":
    if not isinstance(found, Mapping):
        raise RuntimeFault(f"infer of the model returned a {type(found).__name__}, not a dict of arrays")
    return found


def _each_checked(answers: "Generator[Any, Any, Any]") -> "Iterator[Mapping[str, Tensor]]":
    with contextlib.closing(answers):
        for found in answers:
            yield _checked(found)


def _made(path: Path, package: str) -> Any:
    """An instance of the class of a file, whose folder becomes the package of that name."""
    spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
    spec.submodule_search_locations = [str(path.parent)]
    sys.modules[package] = importlib.util.module_from_spec(spec)
    importlib.invalidate_caches()  # the folder may have been written just now
    module = importlib.import_module(f"{package}.{path.stem}")
    kind = getattr(module, CLASS, None)
    if not isinstance(kind, type):
        raise LoadError(f"it has no class {CLASS}")
    return kind(path.parent)


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


def _load_error(path: Path, error: BaseException) -> LoadError:
    if isinstance(error, LoadError):
        return LoadError(f"{path}: {error}", status=error.status)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("_modelmesh_model_"):
        return LoadError(
            f"{path}: needs the Python module {error.name!r}, which is not installed here",
            status=Status.FAILED_PRECONDITION,
        )
    return LoadError(f"{path}: {' '.join(f'{type(error).__name__}: {error}'.split())[:500]}")
