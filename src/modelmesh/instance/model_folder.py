"""The models of a folder: which files they are, and what must change so that what is registered is what is there."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelmesh._proto.model_mesh_pb2 import ModelStatusInfo as Info
from modelmesh.runtime.formats import BUILT_IN_SUFFIXES

TYPES = {suffix: type_ for type_, suffixes in BUILT_IN_SUFFIXES.items() for suffix in suffixes}
"""The model type of a file, by its suffix in lower case."""


PYTHON = "model.py"
"""A model that is a folder: what lies beside this file, and below, is part of it."""


@dataclass(frozen=True, slots=True)
class FolderModel:
    """A model of the folder. `path`: of its file, or of the folder of its `model.py`, relative to the folder."""

    type: str
    path: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a folder.

    Attributes:
        models: By id: the path without the suffix, and that of the folder for a `model.py`.
        passed_over: Files with the suffix of a model that cannot be one, and why.
        stamps: By id: when the file was written, and its size; another stamp is another content. For a `model.py`: when the
            latest of the files beside it and below was written, and the size of all.
    """

    models: dict[str, FolderModel] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)


class AmbiguousFilesError(ValueError):
    """Two files would be one model; the message names them."""


def read_folder(folder: Path) -> Found:
    """Look for model files in a folder and below it.

    Raises:
        AmbiguousFilesError: Two files differ in their suffix only, or a file and a folder with a `model.py`.
    """
    found = Found()
    files = sorted(folder.rglob("*"))
    own_folders = {file.parent for file in files if file.name == PYTHON and file.parent != folder and file.is_file()}
    for file in files:
        is_python = file.name == PYTHON and file.parent in own_folders
        if not is_python and (TYPES.get(file.suffix.lower()) is None or own_folders.intersection(file.parents)):
            continue
        if file.is_dir():
            continue
        path = file.relative_to(folder)
        try:
            path.as_posix().encode()
        except UnicodeEncodeError:
            found.passed_over.append(f"{path.as_posix()!a}: its name is not UTF-8; rename it")
            continue
        if not file.is_file():
            found.passed_over.append(f"{path}: it is no regular file, or a link that leads nowhere")
            continue
        type_, place = ("python", path.parent) if is_python else (TYPES[file.suffix.lower()], path)
        model = place.as_posix() if is_python else path.with_suffix("").as_posix()
        if model in found.models:
            first = folder / found.models[model].path
            raise AmbiguousFilesError(
                f"{first.name} and {(folder / place).name} in {first.parent} would both be the model {model}; "
                "rename one, or take it out of the folder"
            )
        try:
            stamp = _stamp([one for one in files if file.parent in one.parents] if is_python else [file])
        except OSError:
            continue  # it was removed meanwhile
        found.models[model] = FolderModel(type_, place.as_posix())
        found.stamps[model] = stamp
    if (folder / PYTHON).is_file():
        found.passed_over.append(f"{PYTHON}: move it into a folder of its own, whose name is that of the model")
    return found


def _stamp(files: Sequence[Path]) -> tuple[int, int]:
    found = [file.stat() for file in files if "__pycache__" not in file.parts]
    return max(one.st_mtime_ns for one in found), sum(one.st_size for one in found)


class Change(enum.Enum):
    """What happens to one registration."""

    REGISTER = "register"
    REPLACE = "replace"
    UNREGISTER = "unregister"


class ChangeStep(enum.Enum):
    """What is done next about a model whose file has another content."""

    REGISTER = "register"
    """No copy serves: unregister it and register it again, which also forgets failures of the old content."""
    TRY = "try"
    """Load the new content under another id."""
    WAIT = "wait"
    TAKE = "take"
    """The new content can be loaded: unload the copies of the old one."""
    REFUSE = "refuse"
    """It cannot: the copies of the old one stay."""


TRIAL = "//trial"
"""Ends the id under which a new content is loaded for trial; no file of a folder has such an id."""


def change_step(model: "Info.ModelStatus.ValueType", trial: "Info.ModelStatus.ValueType | None") -> ChangeStep:
    """Decide from the status of the model and that of the trial; None: no trial of this content has begun."""
    if model == Info.LOADING:
        return ChangeStep.WAIT
    if model != Info.LOADED:
        return ChangeStep.REGISTER
    if trial is None:
        return ChangeStep.TRY
    steps = {Info.LOADED: ChangeStep.TAKE, Info.LOADING: ChangeStep.WAIT, Info.LOADING_FAILED: ChangeStep.REFUSE}
    return steps.get(trial, ChangeStep.TRY)


def changes(
    wanted: Mapping[str, FolderModel],
    remembered: Mapping[str, FolderModel],
    registered: Mapping[str, FolderModel],
) -> dict[str, Change]:
    """What must change so that exactly the files that are there are registered.

    Args:
        wanted: By model id, what is in the folder now.
        remembered: What was registered from a folder before.
        registered: What the cluster knows; others may have registered it.
    """
    steps: dict[str, Change] = {}
    for model, file in wanted.items():
        standing = registered.get(model)
        if standing is None:
            steps[model] = Change.REGISTER
        elif standing != file:
            # A model that another client registered is not removed: the attempt to register it shows the conflict.
            steps[model] = Change.REPLACE if remembered.get(model) == standing else Change.REGISTER
    for model, file in remembered.items():
        if model not in wanted and registered.get(model) == file:
            steps[model] = Change.UNREGISTER
    return steps
