"""Ids as folders, trees, schemas, settings, sizes, memory, files on this machine."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.runtime.contract import ModelSource
from modelmesh.runtime.errors import LoadError
from modelmesh.servers.files import LocalFiles, read_key
from modelmesh.servers.layout import clipped
from modelmesh.servers.memory import ServerMemory, listening_process, parent_of, resident_tree
from modelmesh.servers.names import MAX_NAME, folder_name, format_of
from modelmesh.servers.repository import words
from modelmesh.servers.schema import Schema, Tensor, read_schema
from modelmesh.servers.settings import SettingsError, Variables, read_settings
from modelmesh.servers.sizes import Growth, Reason, Sizes, judge
from modelmesh.servers.tree import MAX_DEPTH, scan
from modelmesh.storage.progress import silent

MIB = 1024 * 1024


# --- names ----------------------------------------------------------------------------------------


def test_ids_of_the_controller_are_folders_as_they_are() -> None:
    assert folder_name("iris__isvc-6b2eb0b8bf") == "iris__isvc-6b2eb0b8bf"


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_every_id_is_one_folder_of_its_own(one: str, other: str) -> None:
    name = folder_name(one)
    assert 0 < len(name.encode()) <= MAX_NAME
    assert "/" not in name
    assert name[0] not in "._"
    assert (name == folder_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("model_type", "key", "found"),
    [
        ("sklearn", "", "sklearn"),
        ("mt:tensorflow:1.5", "", "tensorflow"),
        ("mt:Keras|pv:grpc-v2", "", "keras"),
        ("rt:triton-2.x", "", ""),
        ("rt:triton-2.x", '{"model_type":{"name":"onnx","version":"1"}}', "onnx"),
        ("mt:a", '{"model_type":"PyTorch:1"}', "pytorch"),
        ("mt:a", '{"model_type":{"name":3}}', "a"),
        ("mt:a", "no json", "a"),
        ("mt:a", "[1]", "a"),
    ],
)
def test_the_format_is_the_keys_else_the_types_without_its_labels(model_type: str, key: str, found: str) -> None:
    """The old adapter took `mt:tensorflow:1.5` for a format called mt."""
    assert format_of(model_type, key) == found


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("b/c.txt", "b/c.txt"),
        ("../../b.txt", "b.txt"),
        ("../../b/c.txt", "b/c.txt"),
        ("/b", "b"),
        ("./b.txt", "b.txt"),
        ("", ""),
    ],
)
def test_paths_are_clipped_at_their_folder(text: str, inside: str) -> None:
    assert clipped(text) == inside


# --- trees ----------------------------------------------------------------------------------------


def test_a_tree_knows_files_folders_and_links_to_folders(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "1" / "sub").mkdir(parents=True)
    (model / "1" / "sub" / "f").write_text("abc")
    (model / "empty").write_text("")
    (model / "2").symlink_to("1")
    (model / "config.pbtxt").write_text("x")
    tree = scan(model, texts=("config.pbtxt", "other"))
    assert tree.files == {"1/sub/f": 3, "empty": 0, "config.pbtxt": 1}
    assert tree.folders == {"1", "1/sub"}
    assert tree.links == {"2"}
    assert tree.texts == {"config.pbtxt": b"x"}
    assert tree.entries() == ["1", "2", "config.pbtxt", "empty"]
    assert tree.entries("1") == ["sub"]
    (tmp_path / "link").symlink_to(model)
    assert scan(tmp_path / "link").files["1/sub/f"] == 3, "a model's own path may be a link into a cache"
    assert scan(model / "empty").is_file


def test_trees_that_lead_out_or_never_end_are_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "out").symlink_to("/etc/passwd")
    with pytest.raises(LoadError, match="leads out of the model's folder"):
        scan(model)
    (model / "out").unlink()
    os.mkfifo(model / "pipe")
    with pytest.raises(LoadError, match="neither a file nor a folder"):
        scan(model)
    (model / "pipe").unlink()
    model.joinpath(*["d"] * (MAX_DEPTH + 2)).mkdir(parents=True)
    with pytest.raises(LoadError, match="nested deeper"):
        scan(model)
    with pytest.raises(LoadError, match="no such file") as caught:
        scan(tmp_path / "nothing")
    assert caught.value.status.name == "FAILED_PRECONDITION"


# --- schemas --------------------------------------------------------------------------------------


def test_a_schema_has_either_side_or_both(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1, 3], "more": 1}]}))
    assert read_schema(file) == Schema((Tensor("x", "BYTES", (-1, 3)),), None)
    file.write_text("{}")
    assert read_schema(file) == Schema()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("{", "no JSON"),
        ("[]", "must be an object"),
        ('{"inputs": {}}', "inputs must be a list"),
        ('{"outputs": [3]}', r"outputs\[0\] must be an object"),
        ('{"inputs": [{"name": "", "datatype": "FP32", "shape": []}]}', r"inputs\[0\].name"),
        ('{"inputs": [{"name": "x", "datatype": "FLOAT", "shape": []}]}', r"inputs\[0\].datatype is 'FLOAT'"),
        ('{"inputs": [{"name": "x", "datatype": "FP32", "shape": [true]}]}', r"inputs\[0\].shape"),
        ('{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]}', r"inputs\[0\].shape"),
    ],
)
def test_what_is_no_schema_says_where(tmp_path: Path, text: str, where: str) -> None:
    """The old adapter made unknown types TYPE_INVALID, and the server said something about that."""
    (tmp_path / "s").write_text(text)
    with pytest.raises(LoadError, match=where):
        read_schema(tmp_path / "s")


# --- settings -------------------------------------------------------------------------------------


def test_settings_have_the_old_names_and_defaults() -> None:
    settings = read_settings({"CONTAINER_MEM_REQ_BYTES": str(1024 * MIB)})
    assert (settings.port, settings.server_port, settings.capacity_bytes) == (8085, 8001, 768 * MIB)
    assert (settings.loading_concurrency, settings.load_timeout_ms, settings.factor) == (1, 30_000, 1.25)
    assert (settings.root, settings.pulls, settings.version) == (Path("/models"), False, "v1")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "CONTAINER_MEM_REQ_BYTES is not set"),
        ({"CONTAINER_MEM_REQ_BYTES": str(256 * MIB)}, "leaves no room"),
        ({"CONTAINER_MEM_REQ_BYTES": "0"}, "leaves no room"),
        ({"ADAPTER_PORT": ""}, "ADAPTER_PORT is ''"),
        ({"LOADING_CONCURRENCY": "2.5"}, "LOADING_CONCURRENCY is '2.5'"),
        ({"LOADING_CONCURRENCY": "0"}, "possible are 1 to"),
        ({"MODELSIZE_MULTIPLIER": "0"}, "must be above 0"),
        ({"MODELSIZE_MULTIPLIER": "nan"}, "no finite number"),
        ({"USE_EMBEDDED_PULLER": "yes"}, "neither true nor false"),
    ],
)
def test_settings_that_make_no_sense_are_named(variables: dict[str, str], said: str) -> None:
    """The old adapter made a huge capacity of a buffer larger than the memory."""
    given = (
        variables
        if "CONTAINER" in said or "room" in said
        else {"CONTAINER_MEM_REQ_BYTES": str(1024 * MIB), **variables}
    )
    with pytest.raises(SettingsError, match=said):
        read_settings(given)


@pytest.mark.parametrize("text", ["2", "x", ""])
def test_a_setting_of_old_that_nothing_reads_ends_nothing(text: str) -> None:
    """A valid number ended the old adapter for Triton, and another made its conversions of Keras files wait without end."""
    given = {"CONTAINER_MEM_REQ_BYTES": str(1024 * MIB), "MAX_CONC_KERAS_CONV_PROCS": text}
    assert read_settings(given).capacity_bytes == 768 * MIB


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("3s", 3.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("2us", 2e-6)]
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert Variables({"T": text}).seconds("T", 9) == pytest.approx(seconds)
    assert Variables({}).seconds("T", 9) == 9


@pytest.mark.parametrize("text", ["", "3", "s", "3x", "1..2s", ".s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"no duration|empty"):
        Variables({"T": text}).seconds("T", 9)


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "size", "reason"),
    [
        ({"reported": 5 * MIB, "growth": Growth(0, 9 * MIB, 0)}, 5 * MIB, Reason.REPORTED),
        ({"reported": 0, "growth": Growth(0, 9 * MIB, 0)}, 9 * MIB, Reason.MEASURED),
        ({"growth": Growth(0, 9 * MIB, 0), "known": 11 * MIB}, 10 * MIB, Reason.MEASURED),
        ({"growth": Growth(0, 9 * MIB, 5 * MIB), "known": 11 * MIB}, 11 * MIB, Reason.REMEMBERED),
        ({"growth": Growth(0, 9 * MIB, 5 * MIB), "known": 11 * MIB, "freed": 9 * MIB}, 9 * MIB, Reason.SETTLED),
        ({"growth": Growth(0, 14 * MIB, 5 * MIB), "known": 11 * MIB, "freed": 14 * MIB}, 14 * MIB, Reason.SETTLED),
        ({"growth": Growth(0, 9 * MIB, 5 * MIB), "known": 11 * MIB, "freed": 7 * MIB}, 11 * MIB, Reason.REMEMBERED),
        ({"growth": Growth(0, 5 * MIB, 5 * MIB), "known": 11 * MIB, "freed": 5 * MIB}, 11 * MIB, Reason.REMEMBERED),
        ({"growth": Growth(0, 0, 5 * MIB), "known": 1 * MIB, "freed": 0}, 1 * MIB, Reason.REMEMBERED),
        ({"growth": Growth(0, 8 * MIB, 5 * MIB)}, 12 * MIB, Reason.BOUNDED),
        ({"growth": Growth(0, 9 * MIB, 5 * MIB)}, 9 * MIB, Reason.BOUNDED),
        ({"growth": Growth(0, 2 * MIB, 5 * MIB)}, 7 * MIB, Reason.BOUNDED),
        ({"growth": Growth(0, 20 * MIB, 5 * MIB)}, 20 * MIB, Reason.BOUNDED),
        ({"growth": Growth(9 * MIB, 8 * MIB, 0)}, 64 * 1024, Reason.BOUNDED),
        ({}, 12 * MIB, Reason.PREDICTED),
    ],
)
def test_a_size_is_what_is_known_best(arguments: dict, size: int, reason: Reason) -> None:
    found = judge(12 * MIB, **arguments)
    assert (found.size_bytes, found.reason) == (size, reason)


@given(st.integers(1, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_size_that_was_bounded_lies_within_what_was_seen(predicted: int, before: int, grew: int, slack: int) -> None:
    found = judge(predicted, growth=Growth(before, before + grew, slack))
    assert min(grew, 64 * 1024) <= found.size_bytes <= max(grew + slack, 64 * 1024)


def test_a_formats_factor_is_learned_from_what_was_measured() -> None:
    sizes = Sizes(factor=1.25, default_bytes=7)
    assert sizes.predicted("a", 100 * MIB) == 125 * MIB
    assert sizes.predicted("a", 0) == 7
    sizes.learn("a", "one", 100 * MIB, judge(0, reported=300 * MIB))
    assert sizes.predicted("a", 10 * MIB) == 30 * MIB
    assert sizes.predicted("b", 100 * MIB) == 125 * MIB
    assert sizes.known("a", "one") == 300 * MIB
    sizes.learn("a", "tiny", 1000, judge(0, reported=5 * MIB))
    assert sizes.predicted("a", 10 * MIB) == 30 * MIB, "a small model tells of the server's own share"
    sizes.learn("a", "guess", 100 * MIB, judge(5 * MIB))
    assert sizes.known("a", "guess") is None


# --- memory ---------------------------------------------------------------------------------------

_HOLDER = """
import socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", 0))
child = subprocess.Popen([sys.executable, "-c", "held = bytearray(64 * 1024 * 1024); input()"], stdin=subprocess.PIPE, close_fds=False)
print(listener.getsockname()[1], child.pid, flush=True)
input()
child.communicate(b"\\n")
"""


def test_a_servers_memory_is_that_of_its_whole_tree_found_by_its_port() -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        port, child = map(int, holder.stdout.readline().split())
        assert listening_process(port) == holder.pid, "the child has the socket as well"
        assert parent_of(child) == holder.pid
        memory = ServerMemory(port)
        for _ in range(2000):  # until the child has its bytes
            seen = memory.read()
            if seen is not None and seen > 64 * MIB:
                break
        assert seen == pytest.approx(resident_tree(holder.pid), rel=0.2)
        assert seen is not None
        assert seen > 64 * MIB
    finally:
        holder.communicate("\n")
    assert memory.read() is None
    assert resident_tree(holder.pid) is None


def test_a_port_on_which_nobody_listens_has_no_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert listening_process(port) == os.getpid()
    assert listening_process(port) is None


# --- files ----------------------------------------------------------------------------------------


async def test_files_on_this_machine_lie_in_their_folders(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "dir").mkdir(parents=True)
    (models / "dir" / "a").write_bytes(b"12345")
    (tmp_path / "secret").write_text("x")
    (models / "out").symlink_to(tmp_path / "secret")
    files = LocalFiles((models,))

    async def bring(path: str, key: str = "") -> tuple[Path, int]:
        found = await files.bring(ModelSource("m", "t", path, key), silent)
        return found.path, found.size_bytes

    assert await bring("dir") == (models / "dir", 5)
    assert await bring(f"file://{models}/dir/a") == (models / "dir" / "a", 5)
    assert await bring("dir", '{"disk_size_bytes": 60}') == (models / "dir", 60)
    assert await files.sizes(ModelSource("m", "t", "dir", "")) == {"a": 5}
    assert await files.sizes(ModelSource("m", "t", "dir/a", "")) == {"a": 5}
    for path, code in {
        "../secret": "PERMISSION_DENIED",
        "out": "PERMISSION_DENIED",
        str(tmp_path / "secret"): "PERMISSION_DENIED",
        "none": "FAILED_PRECONDITION",
        "": "INVALID_ARGUMENT",
        "a\0b": "INVALID_ARGUMENT",
        "s3://bucket/x?sig=secret": "INVALID_ARGUMENT",
    }.items():
        with pytest.raises(LoadError) as caught:
            await bring(path)
        assert caught.value.status.name == code, path
        assert "sig=" not in str(caught.value)


async def test_the_same_files_are_the_same_content_until_they_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    files = LocalFiles((tmp_path,))
    first = await files.bring(ModelSource("m", "t", "a", ""), silent)
    assert (await files.bring(ModelSource("other", "t", "a", ""), silent)).content == first.content
    (tmp_path / "a").write_text("xy")
    assert (await files.bring(ModelSource("m", "t", "a", ""), silent)).content != first.content


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ('{"disk_size_bytes": 54321, "schema_path": "/s"}', ("/s", 54321)),
        ('{"disk_size_bytes": 1.5e3}', ("", 1500)),
        ('{"disk_size_bytes": "x"}', ("", 0)),
        ('{"disk_size_bytes": true}', ("", 0)),
        ('{"disk_size_bytes": -1}', ("", 0)),
        ("{", ("", 0)),
        ("[]", ("", 0)),
        ("", ("", 0)),
    ],
)
def test_a_keys_size_and_schema_are_read_and_nothing_else_asked_of_it(key: str, found: tuple[str, int]) -> None:
    assert read_key(key) == found


def test_a_size_by_factor_is_the_old_vector() -> None:
    assert Sizes(1.35, 1).predicted("a", 54321) == 73333


# --- words ----------------------------------------------------------------------------------------


def test_a_servers_traceback_is_cut_to_what_it_says() -> None:
    assert words('Traceback (most recent call last):\n  File "x"\nValueError: no\n') == "ValueError: no"
    assert words("a\n b") == "a b"
    assert words(None) == ""
    assert len(words("x" * 10_000)) < 3000
