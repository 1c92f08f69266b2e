"""Formats of model files: how each is loaded, measured and asked. Pluggable by entry point.

A format of your own is a class with the methods of `Format`, named in the entry point group `modelmesh.formats` of
your package:

    [project.entry-points."modelmesh.formats"]
    catboost = "my_package.catboost:CatBoostFormat"

The name is the model type. A name that is built in is replaced.
"""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from modelmesh.runtime.contract import ModelSignature
from modelmesh.runtime.environments import MARK, FormatElsewhere
from modelmesh.runtime.errors import LoadError
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

_log = logging.getLogger("modelmesh.runtime")

GROUP = "modelmesh.formats"

BUILT_IN = {
    "sklearn": "modelmesh.runtime.sklearn:SklearnFormat",
    "onnx": "modelmesh.runtime.onnx:OnnxFormat",
    "xgboost": "modelmesh.runtime.xgboost:XgboostFormat",
    "lightgbm": "modelmesh.runtime.lightgbm:LightgbmFormat",
    "torchscript": "modelmesh.runtime.torchscript:TorchscriptFormat",
    "python": "modelmesh.runtime.python:PythonFormat",
}
"""As in pyproject.toml; listed here too, so that a source tree works without being installed."""

BUILT_IN_SUFFIXES = {
    "sklearn": (".joblib", ".pkl", ".pickle"),
    "onnx": (".onnx",),
    "xgboost": (".ubj",),
    "lightgbm": (".lgb", ".lightgbm"),
    "torchscript": (".torchscript", ".ts"),
    "python": ("model.py",),
}
"""Known without importing the packages: they are imported when a file of theirs is loaded, and a missing one is named."""

BUILT_IN_NAMED_SUFFIXES = {
    "xgboost": (".json", ".bst", ".model"),
    "lightgbm": (".txt", ".bst", ".model"),
    "torchscript": (".pt", ".pth"),
}
"""Likewise."""

_EARLY = ("sklearn", "onnx")
"""Built-in formats whose packages are imported when the runtime starts; those of the others wait for a first model."""


class LoadedFile(Protocol):
    """A model in memory."""

    @property
    def signature(self) -> ModelSignature:
        """Its inputs and outputs."""
        ...

    @property
    def size_bytes(self) -> int:
        """Memory it takes; the same each time the same file is loaded."""
        ...

    def infer(
        self, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Mapping[str, Tensor] | Iterator[Mapping[str, Tensor]]":
        """As `ModelRuntime.infer`."""
        ...

    def close(self) -> None:
        """Drop what it holds. Not called while `infer` runs."""
        ...


class Format(Protocol):
    """A kind of model file. Made once, without arguments; its methods are called in threads.

    Attributes:
        suffixes: Of its files, with the dot, lower case; how a model of type `auto` finds its format. One without a dot in
            front is a file's whole name.
        named_suffixes: May be left out. Of files that are of this format only if the model's type is that format, as `.json`; how
            the one model file of a folder is found.

    A class may set `runs_code = False` if loading a file of any content cannot run code. Without it the format is taken
    to run code, and its files are loaded from folders only that the operator named.
    """

    suffixes: tuple[str, ...]

    def predict_size(self, path: Path) -> int:
        """Bytes a file will take once loaded; quick (500 ms), and rather too much than too little."""
        ...

    def load(self, path: Path) -> LoadedFile:
        """Load a file. Raises LoadError, naming path and cause."""
        ...


def runs_code(form: Format) -> bool:
    """Whether loading a file of this format may run code that its author chose."""
    return getattr(form, "runs_code", True) is not False


class Formats:
    """The formats at hand, made when first used.

    Args:
        references: As `module:Class`, by name.
        environments: Names of environments. Each has all formats, as `format@environment`.
    """

    def __init__(self, references: Mapping[str, str], environments: Sequence[str] = ()) -> None:
        self._references = dict(references)
        self._environments = tuple(environments)
        self._made: dict[str, Format] = {}

    def within(self, environments: Sequence[str]) -> "Formats":
        """The same, with these environments."""
        return Formats(self._references, environments)

    @property
    def names(self) -> tuple[str, ...]:
        """Model types, in the order of discovery."""
        return tuple(self._references)

    def get(self, name: str) -> Format:
        """The format of that name.

        Raises:
            LoadError: There is none (INVALID_ARGUMENT), or a package it needs is not installed (FAILED_PRECONDITION).
        """
        if name in self._made:
            return self._made[name]
        base, mark, environment = name.partition(MARK)
        reference = self._references.get(base)
        if reference is None:
            raise LoadError(f"model type {name!r} is not known here; known are auto, {', '.join(self.names)}")
        if mark:
            if environment not in self._environments:
                known = ", ".join(self._environments) or "none"
                raise LoadError(f"model type {name!r} names environment {environment!r}; this runtime has {known}")
            self._made[name] = FormatElsewhere(reference, environment)
            return self._made[name]
        module, _, attribute = reference.partition(":")
        try:
            made: Format = getattr(importlib.import_module(module), attribute)()
        except ImportError as error:
            hint = f"pip install pymodelmesh[{name}]" if name in BUILT_IN else f"install what {module} needs"
            raise LoadError(
                f"models of type {name} cannot be loaded here, {error.name or error} is missing: {hint}",
                status=Status.FAILED_PRECONDITION,
            ) from error
        self._made[name] = made
        return made

    def name_of(self, form: Format) -> str | None:
        """The name by which `get` gave this format."""
        return next((name for name, made in self._made.items() if made is form), None)

    def module_of(self, name: str) -> str:
        """The module of a format, which need not be there."""
        return self._references[name].partition(":")[0]

    def warm_up(self) -> None:
        """Import packages so that the first load need not: of formats that are widely used, and of plug-ins."""
        for name in self.names:
            if name in _EARLY or not self._is_built_in(name):
                try:
                    self.get(name)
                except LoadError as error:
                    _log.info("%s", error)

    def by_suffix(self, path: Path) -> str | None:
        """The name of the format whose files end like this one; plug-ins that cannot be imported are passed over."""
        return next((name for name in self.names if _ends(path, self._suffixes(name))), None)

    def may_be(self, name: str, path: Path) -> bool:
        """Whether a file beside others, by its suffix, is the one of a model whose type names this format."""
        name = name.partition(MARK)[0]
        if self._is_built_in(name):
            named = BUILT_IN_NAMED_SUFFIXES.get(name, ())
        else:
            named = getattr(self.get(name), "named_suffixes", ())
        return _ends(path, (*self._suffixes(name), *named))

    def _suffixes(self, name: str) -> tuple[str, ...]:
        if self._is_built_in(name):
            return BUILT_IN_SUFFIXES[name]
        try:
            return self.get(name).suffixes
        except LoadError:
            return ()

    def _is_built_in(self, name: str) -> bool:
        return name in BUILT_IN and self._references.get(name) == BUILT_IN[name]


def _ends(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix.lower() in suffixes or path.name in suffixes


def discovered() -> Formats:
    """The built-in formats and those of installed packages."""
    found = dict(BUILT_IN)
    found.update({point.name: point.value for point in entry_points(group=GROUP)})
    return Formats(found)
