"""`modelmesh models status` while a model loads."""

import importlib
import json
from typing import Any, Self

import pytest

from modelmesh._proto import admin_pb2, model_mesh_pb2

models = importlib.import_module("modelmesh.cli.models")  # the package has a command of that name


class Client:
    """Answers as a mesh in which `m` loads at two instances."""

    def call(self, method: str, request: Any, answer: Any, **_: Any) -> Any:
        if method == "mmesh.ModelMesh/getModelStatus":
            status = model_mesh_pb2.ModelStatusInfo
            copies = [
                status.ModelCopyInfo(location=name, copyStatus=state)
                for name, state in (("a", status.LOADING), ("b", status.LOADING), ("c", status.LOADED))
            ]
            return status(status=status.LOADED, modelCopyInfos=copies)
        assert method == "modelmesh.v1.Admin/Explain"
        told = [
            ("a", "load_progress", "fetching, 90.0 MiB of 90.0 MiB"),
            ("a", "load_started", ""),
            ("a", "load_progress", "fetching, 1.0 MiB of 40.0 MiB"),
            ("a", "load_progress", "fetching, 12.0 MiB of 40.0 MiB"),
            ("b", "load_progress", "fetching, 90.0 MiB of 90.0 MiB"),
            ("b", "load_started", ""),
            ("c", "load_progress", "loading, 40.0 MiB of 40.0 MiB"),
        ]
        events = [admin_pb2.Event(instance_id=one, kind=kind, detail=detail) for one, kind, detail in told]
        return admin_pb2.ExplainResponse(events=events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_client", lambda _address, _ca: Client())


def test_how_far_a_load_is_stands_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    models.status("m", address="x", ca=None, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("  a: LOADING")
    assert lines[1].endswith("(fetching, 12.0 MiB of 40.0 MiB)")
    assert "MiB" not in lines[2], "of a load before this one nothing is told"
    assert "MiB" not in lines[3]


def test_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    models.status("m", address="x", ca=None, as_json=True)
    copies = json.loads(capsys.readouterr().out)["copies"]
    assert [copy.get("progress") for copy in copies] == ["fetching, 12.0 MiB of 40.0 MiB", None, None]
