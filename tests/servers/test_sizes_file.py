"""Measured sizes that outlive the adapter."""

import json
from pathlib import Path

import pytest

from modelmesh.servers.sizes import REMEMBERED, Learned, Reason, Size, Sizes
from modelmesh.servers.sizes_file import SizesFile, parse_line

MIB = 1024 * 1024


def opened(path: Path) -> Sizes:
    return SizesFile(path).remembered(1.25, 1000)


def test_what_was_measured_is_known_to_the_next_adapter_and_so_are_factors(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "sizes.jsonl"
    first = opened(path)
    first.learn("onnx", "a", 10 * MIB, Size(30 * MIB, Reason.MEASURED))
    first.learn("onnx", "b", 10 * MIB, Size(20 * MIB, Reason.PREDICTED))
    second = opened(path)
    assert second.known("onnx", "a") == 30 * MIB
    assert second.known("onnx", "b") is None
    assert second.predicted("onnx", 2 * MIB) == 6 * MIB
    assert second.predicted("sklearn", 2 * MIB) == 2.5 * MIB


def test_the_last_size_of_a_content_counts_and_one_that_is_known_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "sizes.jsonl"
    sizes = opened(path)
    for size in (5 * MIB, 6 * MIB, 6 * MIB, 6 * MIB):
        sizes.learn("onnx", "a", MIB, Size(size, Reason.MEASURED))
    assert len(path.read_bytes().splitlines()) == 2
    assert opened(path).known("onnx", "a") == 6 * MIB
    assert len(path.read_bytes().splitlines()) == 1, "written anew when read"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model_format": "onnx"}',
        b'{"model_format": 1, "content": "a", "disk_bytes": 1, "size_bytes": 1, "reason": "measured"}',
        b'{"model_format": "onnx", "content": "a", "disk_bytes": 1, "size_bytes": -1, "reason": "measured"}',
        b'{"model_format": "onnx", "content": "a", "disk_bytes": 1, "size_bytes": 0, "reason": "measured"}',
        b'{"model_format": "onnx", "content": "a", "disk_bytes": 1, "size_bytes": true, "reason": "measured"}',
        b'{"model_format": "onnx", "content": "a", "disk_bytes": 1.5, "size_bytes": 1, "reason": "measured"}',
        b'{"model_format": "onnx", "content": "a", "disk_bytes": 1, "size_bytes": 1e999, "reason": "measured"}',
        b'{"model_format": "onnx", "content": "a", "disk_bytes": 1, "size_bytes": 9999999999999999, "reason": "reported"}',
        b'{"model_format": "onnx", "content": "a", "disk_bytes": 1, "size_bytes": 1, "reason": "predicted"}',
        b'{"model_format": "onnx", "content": "a", "disk_bytes": 1, "size_bytes": 1, "reason": ["reported"]}',
        json.dumps(
            {"model_format": "o", "content": "a" * 5000, "disk_bytes": 1, "size_bytes": 1, "reason": "reported"}
        ).encode(),
    ],
)
def test_lines_that_say_what_cannot_be_are_passed_over(tmp_path: Path, line: bytes) -> None:
    assert parse_line(line) is None
    path = tmp_path / "sizes.jsonl"
    opened(path).learn("onnx", "good", MIB, Size(MIB, Reason.REPORTED))
    path.write_bytes(line + b"\n" + path.read_bytes() + line)
    sizes = opened(path)
    assert sizes.known("onnx", "good") == MIB
    assert sizes.known("onnx", "a") is None
    sizes.learn("onnx", "next", MIB, Size(2 * MIB, Reason.REPORTED))
    assert opened(path).known("onnx", "next") == 2 * MIB, "a line that was cut off takes no later one with it"


def test_it_does_not_grow_without_end(tmp_path: Path) -> None:
    path = tmp_path / "sizes.jsonl"
    file = SizesFile(path)
    with path.open("wb") as stream:
        for number in range(REMEMBERED + 10):
            learned = Learned("onnx", f"content {number}", MIB, MIB + number, Reason.MEASURED)
            stream.write(json.dumps({**vars_of(learned), "reason": "measured"}).encode() + b"\n")
    sizes = file.remembered(1.25, 1000)
    assert sizes.known("onnx", "content 9") is None
    assert sizes.known("onnx", "content 10") == MIB + 10
    assert len(path.read_bytes().splitlines()) == REMEMBERED


def vars_of(learned: Learned) -> dict[str, object]:
    return {name: getattr(learned, name) for name in ("model_format", "content", "disk_bytes", "size_bytes")}


def test_a_disk_that_does_not_take_it_hurts_no_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    sizes = opened(tmp_path / "file" / "sizes.jsonl")
    for size in range(1, 4):
        sizes.learn("onnx", "a", MIB, Size(size * MIB, Reason.REPORTED))
    assert sizes.known("onnx", "a") == 3 * MIB
    assert sum("are not kept" in record.message for record in caplog.records) == 1
    (tmp_path / "folder.jsonl").mkdir()
    assert opened(tmp_path / "folder.jsonl").known("onnx", "a") is None
