"""`modelmesh pull`, as somebody types it."""

import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelmesh.cli import app


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "model.onnx").write_bytes(b"content")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def pull(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["pull", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_into_the_cache_and_again(url: str, tmp_path: Path) -> None:
    code, out, _ = pull(f"{url}/model.onnx", "--cache", tmp_path / "cache")
    assert code == 0
    assert Path(out.strip()).read_bytes() == b"content"
    code, out, _ = pull(f"{url}/model.onnx", "--cache", tmp_path / "cache", "--json")
    assert json.loads(out)["bytes"] == 7
    assert Path(json.loads(out)["path"]).read_bytes() == b"content"


def test_into_a_folder(url: str, tmp_path: Path) -> None:
    code, out, _ = pull(f"{url}/model.onnx", "--to", tmp_path / "here")
    assert code == 0
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["model.onnx"]
    assert Path(out.strip()).read_bytes() == b"content"
    code, _, said = pull(f"{url}/model.onnx", "--to", tmp_path / "here")
    assert code == 1
    assert "exists; remove it" in said


def test_files_of_this_machine_are_copied(tmp_path: Path) -> None:
    (tmp_path / "m" / "sub").mkdir(parents=True)
    (tmp_path / "m" / "sub" / "a").write_bytes(b"a")
    code, _, _ = pull(tmp_path / "m", "--to", tmp_path / "copy")
    assert code == 0
    assert (tmp_path / "copy" / "m" / "sub" / "a").read_bytes() == b"a"
    assert (tmp_path / "m" / "sub" / "a").exists()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("{url}/gone", "NOT_FOUND"),
        ("ftp://host/a", "has a scheme that is not known"),
        ("http://127.0.0.1:1/a", "UNAVAILABLE"),
        ("/no/such/file", "NOT_FOUND"),
    ],
)
def test_what_cannot_be_pulled_is_said_and_nothing_is_left(url: str, tmp_path: Path, uri: str, said: str) -> None:
    code, out, text = pull(uri.format(url=url), "--to", tmp_path / "here")
    assert (code, out) == (1, "")
    assert said in text
    assert not (tmp_path / "here").exists() or list((tmp_path / "here").iterdir()) == []
