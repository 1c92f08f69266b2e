"""Which files of a folder are models, what changes between two starts, when children start again, what they inherit."""

import os
from pathlib import Path

import pytest

from modelmesh._proto.model_mesh_pb2 import ModelStatusInfo as Info
from modelmesh.instance.model_folder import (
    AmbiguousFilesError,
    Change,
    ChangeStep,
    FolderModel,
    change_step,
    changes,
    read_folder,
)
from modelmesh.instance.processes import inherited
from modelmesh.instance.restarts import FIRST_S, LONGEST_S, STEADY_S, Restarts
from modelmesh.instance.sources import setting_names

IRIS = FolderModel("sklearn", "iris.joblib")
IRIS_ONNX = FolderModel("onnx", "iris.onnx")


def test_suffixes_count_in_any_case(tmp_path: Path) -> None:
    for name in ("a.JOBLIB", "b.pickle", "c.ONNX", "d.Pkl", "e.txt", "no suffix"):
        (tmp_path / name).touch()
    assert {model: file.type for model, file in read_folder(tmp_path).models.items()} == {
        "a": "sklearn",
        "b": "sklearn",
        "c": "onnx",
        "d": "sklearn",
    }


def test_what_cannot_be_a_model_is_named_and_the_rest_is_taken(tmp_path: Path) -> None:
    (tmp_path / "good.onnx").touch()
    (tmp_path / os.fsdecode(b"bad\xff.onnx")).touch()
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "gone.onnx").symlink_to("nowhere")
    (tmp_path / "folder.onnx").mkdir()
    found = read_folder(tmp_path)
    assert list(found.models) == ["good"]
    assert len(found.passed_over) == 3
    assert any("not UTF-8" in line and r"\udcff" in line for line in found.passed_over)
    for line in found.passed_over:
        line.encode()


def test_two_files_of_one_model_are_named(tmp_path: Path) -> None:
    for name in ("a.onnx", "a.JOBLIB"):
        (tmp_path / name).touch()
    with pytest.raises(AmbiguousFilesError, match=r"a\.JOBLIB and a\.onnx"):
        read_folder(tmp_path)


def test_a_folder_with_a_model_py_is_one_model_and_nothing_in_it_is_another(tmp_path: Path) -> None:
    (tmp_path / "deep" / "scale" / "parts").mkdir(parents=True)
    for name in (
        "deep/scale/model.py",
        "deep/scale/weights.onnx",
        "deep/scale/parts/more.joblib",
        "deep/other.onnx",
        "x.py",
    ):
        (tmp_path / name).touch()
    found = read_folder(tmp_path)
    assert found.models == {
        "deep/other": FolderModel("onnx", "deep/other.onnx"),
        "deep/scale": FolderModel("python", "deep/scale"),
    }
    assert found.passed_over == []
    (tmp_path / "deep/scale/parts/more.joblib").write_bytes(b"changed")
    changed = read_folder(tmp_path)
    assert changed.stamps["deep/scale"] != found.stamps["deep/scale"]
    assert changed.stamps["deep/other"] == found.stamps["deep/other"]


def test_a_model_py_without_a_folder_of_its_own_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    (tmp_path / "a.onnx").touch()
    found = read_folder(tmp_path)
    assert list(found.models) == ["a"]
    assert found.passed_over == ["model.py: move it into a folder of its own, whose name is that of the model"]


def test_a_file_and_a_python_model_of_one_name_are_named(tmp_path: Path) -> None:
    (tmp_path / "scale").mkdir()
    (tmp_path / "scale" / "model.py").touch()
    (tmp_path / "scale.onnx").touch()
    with pytest.raises(AmbiguousFilesError, match="would both be the model scale"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("wanted", "remembered", "registered", "expected"),
    [
        ({"iris": IRIS}, {}, {}, {"iris": Change.REGISTER}),
        ({"iris": IRIS}, {"iris": IRIS}, {"iris": IRIS}, {}),
        ({"iris": IRIS}, {}, {"iris": IRIS}, {}),
        # Its suffix changed.
        ({"iris": IRIS_ONNX}, {"iris": IRIS}, {"iris": IRIS}, {"iris": Change.REPLACE}),
        # Its file went.
        ({}, {"iris": IRIS}, {"iris": IRIS}, {"iris": Change.UNREGISTER}),
        # Somebody else registered it, then and now.
        ({"iris": IRIS_ONNX}, {}, {"iris": IRIS}, {"iris": Change.REGISTER}),
        ({"iris": IRIS_ONNX}, {"iris": IRIS}, {"iris": FolderModel("other", "x")}, {"iris": Change.REGISTER}),
        ({}, {"iris": IRIS}, {"iris": FolderModel("other", "x")}, {}),
        ({}, {"iris": IRIS}, {}, {}),
        ({}, {}, {"by hand": IRIS}, {}),
    ],
)
def test_what_is_registered_becomes_what_is_there(wanted, remembered, registered, expected) -> None:
    assert changes(wanted, remembered, registered) == expected


def test_a_child_waits_longer_from_one_end_to_the_next_until_it_runs_steadily() -> None:
    restarts, now_s, waits = Restarts(), 100.0, []
    for _ in range(8):
        restarts.started("a", now_s=now_s)
        now_s += 1
        waits.append(restarts.ended("a", now_s=now_s))
        assert restarts.ended(f"other {now_s}", now_s=now_s) == FIRST_S
        now_s += waits[-1]
    assert waits == sorted(waits)
    assert waits[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert waits[-1] == LONGEST_S
    restarts.started("a", now_s=now_s)
    assert restarts.ended("a", now_s=now_s + STEADY_S) == FIRST_S


def test_children_inherit_what_they_need_and_no_secret() -> None:
    environment = {
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "2",
        "MM_METRICS": "disabled",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "GITHUB_TOKEN": "secret",
        "http_proxy": "http://proxy",
        "HTTPS_PROXY": "http://proxy",
        "SSH_AUTH_SOCK": "/tmp/agent",
        "MODELMESH_KEY": "key.pem",
    }
    plain = inherited(environment)
    assert set(plain) == {"PATH", "LC_ALL", "PYTHONHASHSEED", "OMP_NUM_THREADS"}
    assert set(inherited(environment, settings=setting_names())) - set(plain) == {"MM_METRICS"}


def test_a_changed_file_is_tried_and_taken_and_a_broken_one_is_refused() -> None:
    assert change_step(Info.LOADED, None) is ChangeStep.TRY
    assert change_step(Info.LOADED, Info.LOADING) is ChangeStep.WAIT
    assert change_step(Info.LOADED, Info.LOADED) is ChangeStep.TAKE
    assert change_step(Info.LOADED, Info.LOADING_FAILED) is ChangeStep.REFUSE
    assert change_step(Info.LOADED, Info.NOT_LOADED) is ChangeStep.TRY, "it was evicted before it was seen"


def test_a_changed_file_of_a_model_that_serves_nobody_is_registered_anew() -> None:
    assert change_step(Info.NOT_LOADED, None) is ChangeStep.REGISTER
    assert change_step(Info.LOADING_FAILED, None) is ChangeStep.REGISTER
    assert change_step(Info.LOADING, None) is ChangeStep.WAIT, "its callers wait for it"
