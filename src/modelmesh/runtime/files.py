"""The built-in runtime: models from files, in the formats of `modelmesh.runtime.formats`."""

import inspect
import os
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from modelmesh.runtime.contract import MIB, Batching, ModelRuntime, ModelSignature, ModelSource
from modelmesh.runtime.errors import LoadError
from modelmesh.runtime.formats import Format, Formats, LoadedFile, discovered, runs_code
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh.runtime.contract import Tensor

MAX_PATH_BYTES = 4096
"""As the system's."""


class FileRuntime(ModelRuntime[LoadedFile]):
    """Serves scikit-learn, ONNX, XGBoost, LightGBM, TorchScript and Python models over the Open Inference Protocol.

    The format follows from the model type: `sklearn`, `onnx`, `xgboost`, `lightgbm`, `torchscript`, `python`, that of an installed plug-in, or `auto`
    (and empty), which goes by the file's suffix. Types as the Kubernetes controller writes them (`mt:sklearn:1`) are understood.

    A path is a local file, a `file://` URI, or a folder with one model file. Loading a joblib or pickle file runs
    code that is in it, so such files are loaded from the models' folder only: whoever may write there may run
    programs here.

    Args:
        models: Folder that every path must lie in, symbolic links followed; relative paths start there. A snapshot
            folder of a Hugging Face cache may link to the files of its repository. None: formats that cannot run code
            are loaded from any absolute path, the others from nowhere.
        linked: Further folders that a path may lead to, as the mounted claims of a pod.
        capacity_bytes, default_size_bytes, loading_concurrency, load_timeout_ms: As in `ModelRuntime`.
        batching: For models whose inputs and outputs all begin with an axis of any size. A model's own counts more.
        formats: For tests.
    """

    name = "modelmesh-files"

    def __init__(
        self,
        *,
        models: Path | None = None,
        linked: Sequence[Path] = (),
        capacity_bytes: int = 512 * MIB,
        default_size_bytes: int = 1 * MIB,
        loading_concurrency: int = 2,
        load_timeout_ms: int = 60_000,
        batching: Batching | None = None,
        formats: Formats | None = None,
    ) -> None:
        self._batching = batching
        self.models = None if models is None else models.resolve()
        self._roots = () if self.models is None else (_root(self.models), *(folder.resolve() for folder in linked))
        self.capacity_bytes = capacity_bytes
        self.default_size_bytes = default_size_bytes
        self.loading_concurrency = loading_concurrency
        self.load_timeout_ms = load_timeout_ms
        self._formats = formats or discovered()

    def warm_up(self) -> None:
        """Import the packages of formats that are widely used: seconds, which the first load then does not take."""
        self._formats.warm_up()

    def load(self, source: ModelSource) -> LoadedFile:
        """Load a file.

        Raises:
            LoadError: INVALID_ARGUMENT: the path leaves the models' folder, the type is unknown, the file is broken or
                of another kind. FAILED_PRECONDITION: the file is missing or unreadable, a package is not installed.
        """
        form, path = self._resolve(source)
        return form.load(path)

    def size(self, model: LoadedFile) -> int:
        """As the format measures."""
        return model.size_bytes

    def predict_size(self, source: ModelSource) -> int | None:
        """As the format predicts from the file."""
        form, path = self._resolve(source)
        return form.predict_size(path)

    def unload(self, model: LoadedFile) -> None:
        """Close the file's model."""
        model.close()

    def batching(self, model: LoadedFile) -> Batching | None:
        """The model's own; else that of the runtime, if the first axis of all inputs and outputs is open."""
        if (own := getattr(model, "batching", None)) is not None:
            return own  # type: ignore[no-any-return] # its format has checked it
        specs = (*model.signature.inputs, *model.signature.outputs)
        counts_rows = bool(model.signature.inputs) and all(spec.shape[:1] == (-1,) for spec in specs)
        return self._batching if counts_rows else None

    def signature(self, model: LoadedFile) -> ModelSignature:
        """As the format predicts."""
        return model.signature

    def infer(
        self, model: LoadedFile, inputs: "Mapping[str, Tensor]", parameters: Mapping[str, bool | int | float | str]
    ) -> "Mapping[str, Tensor] | Iterator[Mapping[str, Tensor]] | Awaitable[Mapping[str, Tensor]]":
        """As the format answers."""
        return model.infer(inputs, parameters)

    def native(self, model: LoadedFile) -> Any:
        """A session of the native core that answers as `infer` does; None: there is none."""
        return getattr(model, "native", None) if type(self).infer is FileRuntime.infer else None

    def is_async(self, model: LoadedFile) -> bool:
        """Whether it is in a process of its own."""
        return inspect.iscoroutinefunction(model.infer)

    def _resolve(self, source: ModelSource) -> tuple[Format, Path]:
        """The format and the file, by the name that the file has here: what it links to may have another."""
        form, path = self._format_of(self._path(source.path), type_name(source.type), inside=self._path)
        if self.models is None and runs_code(form):
            raise LoadError(
                f"{path}: a file that can run code when it is loaded is taken only from a folder that"
                " the operator names; start the runtime, or `modelmesh up`, with --models FOLDER",
                status=Status.PERMISSION_DENIED,
            )
        return form, path

    def _format_of(self, path: Path, kind: str, *, inside: Callable[[str], Path]) -> tuple[Format, Path]:
        """The format of a file, or of the one in a folder. `inside` checks what the folder's file links to."""
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            path = self._file_in(path, kind, inside)
            mode = _mode(path)
        if not stat.S_ISREG(mode):
            raise LoadError(f"{path}: is not a regular file")
        name = kind or self._formats.by_suffix(path)
        if name is None:
            raise LoadError(
                f"{path}: the suffix is not that of a format; register the model with one of the types"
                f" {', '.join(self._formats.names)}"
            )
        return self._formats.get(name), path

    def _path(self, text: str) -> Path:
        """The file meant, as it is named; what it links to is checked to lie in the models' folder."""
        if not text:
            raise LoadError("the model has no path; register it with the path of its file")
        if "://" in text:
            uri = urlsplit(text)
            if uri.scheme != "file" or uri.netloc not in {"", "localhost"}:
                raise LoadError(f"{text}: only local files and file:// URIs can be loaded here")
            text = unquote(uri.path)
        if "\0" in text:
            raise LoadError(f"{text!r} is no path")
        if len(os.fsencode(text)) > MAX_PATH_BYTES:
            raise LoadError(f"the path {text[:64]!r}… has {len(os.fsencode(text))} bytes, at most {MAX_PATH_BYTES}")
        path = Path(text)
        if self.models is None:
            if not path.is_absolute():
                raise LoadError(f"{text}: a relative path needs a models' folder; start the runtime with --models")
            return Path(os.path.normpath(path))
        named = Path(os.path.normpath(self.models / path))
        try:
            target = (self.models / path).resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            raise LoadError(f"{text}: cannot be followed ({error})") from error
        if not any(target.is_relative_to(root) for root in self._roots):
            raise LoadError(f"{text}: lies outside of the models' folder {self.models}")
        return named

    def _file_in(self, folder: Path, kind: str, inside: Callable[[str], Path]) -> Path:
        """The one model file of a folder."""
        found = [
            path
            for path in sorted(folder.iterdir())
            if path.is_file() and (self._formats.may_be(kind, path) if kind else self._formats.by_suffix(path))
        ]
        if len(found) != 1:
            raise LoadError(f"{folder}: holds {len(found)} model files; give the path of one")
        # A symbolic link in the folder may lead out of it.
        return inside(str(found[0]))


def _mode(path: Path) -> int:
    """What is there, of the file that a link leads to."""
    try:
        return path.stat().st_mode
    except FileNotFoundError as error:
        raise LoadError(f"{path}: no such file", status=Status.FAILED_PRECONDITION) from error
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}", status=Status.FAILED_PRECONDITION) from error


def _root(models: Path) -> Path:
    """What the files of a models' folder may link to: the folder, or the repository of a Hugging Face cache around it.

    Such a repository is `models--…` with the files in `blobs` and links to them in `snapshots/<revision>`.
    """
    for parent in models.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent
    return models


def type_name(text: str) -> str:
    """The format of a model type; empty: go by the suffix.

    `mt:<format>[:<version>]`, with `|…` behind, is what the Kubernetes controller writes, `rt:…` names a runtime.
    """
    first = text.partition("|")[0]
    if first.startswith("rt:"):
        return ""
    name = first.removeprefix("mt:").partition(":")[0].lower()
    return "" if name == "auto" else name
