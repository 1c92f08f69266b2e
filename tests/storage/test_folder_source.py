"""Files that are here already: claims, and folders that the operator named."""

import os
from pathlib import Path

import pytest
from conftest import tree

from modelmesh.storage import Puller, StorageError, parse_location
from modelmesh.values.status import Status


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    folder = tmp_path / "claims" / "claim"
    (folder / "m" / "sub").mkdir(parents=True)
    (folder / "m" / "a").write_bytes(b"a")
    (folder / "m" / "sub" / "b").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"TOPSECRET")
    return folder


async def test_a_claim_is_used_where_it_is(puller: Puller, claim: Path) -> None:
    with await puller.pull(parse_location("pvc://claim/m")) as pulled:
        assert pulled.path == claim / "m"
        assert tree(pulled.path) == {"a": b"a", "sub/b": b""}
        assert pulled.size_bytes == 1
    with await puller.pull(parse_location("pvc://claim/m/a")) as pulled:
        assert pulled.path == claim / "m" / "a"
    assert not puller.cache.folder.exists()


async def test_links_inside_are_followed_and_circles_end(puller: Puller, claim: Path) -> None:
    (claim / "m" / "latest").symlink_to("sub")
    (claim / "m" / "sub" / "up").symlink_to("..")
    (claim / "m" / "c").symlink_to("a")
    plan = await puller.plan(parse_location("pvc://claim/m"))
    assert {file.name for file in plan.files} >= {"a", "c"}
    (claim / "model").symlink_to("m/a")
    with await puller.pull(parse_location("pvc://claim/model")) as pulled:
        assert pulled.path.name == "model"


@pytest.mark.parametrize("to", ["../../../secret", "/etc", "../../other"])
async def test_links_that_leave_the_claim_are_refused(puller: Puller, claim: Path, to: str) -> None:
    """The old puller followed them anywhere on the mount."""
    (claim.parent / "other").mkdir()
    (claim / "m" / "link").symlink_to(to)
    for uri in ("pvc://claim/m", "pvc://claim/m/link"):
        with pytest.raises(StorageError) as error:
            await puller.pull(parse_location(uri))
        assert error.value.code is Status.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda folder: (folder / "gone").symlink_to("nowhere"), Status.NOT_FOUND),
        (lambda folder: (folder / "loop").symlink_to("loop"), Status.INVALID_ARGUMENT),
        (lambda folder: os.mkfifo(folder / "fifo"), Status.INVALID_ARGUMENT),
        (lambda folder: (folder / b"caf\xe9".decode("utf-8", "surrogateescape")).touch(), Status.INVALID_ARGUMENT),
        (lambda folder: (folder / "a\nb").touch(), Status.INVALID_ARGUMENT),
    ],
    ids=["dangling", "circle", "fifo", "not UTF-8", "newline"],
)
async def test_what_is_no_file(puller: Puller, claim: Path, make, code: Status) -> None:
    make(claim / "m")
    with pytest.raises(StorageError) as error:
        await puller.pull(parse_location("pvc://claim/m"))
    assert error.value.code in {
        code,
        Status.NOT_FOUND if code is Status.NOT_FOUND else code,
        Status.FAILED_PRECONDITION,
    }
    assert "\n" not in str(error.value)


async def test_what_is_not_there(puller: Puller, claim: Path) -> None:
    with pytest.raises(StorageError, match="no such file") as error:
        await puller.pull(parse_location("pvc://claim/nothing"))
    assert error.value.code is Status.NOT_FOUND
    with pytest.raises(StorageError, match="not mounted here") as error:
        await puller.pull(parse_location("pvc://other/m"))
    assert error.value.code is Status.FAILED_PRECONDITION
    (claim / "m" / "empty").mkdir()
    with pytest.raises(StorageError) as error:
        await puller.pull(parse_location("pvc://claim/m/empty"))
    assert error.value.code is Status.NOT_FOUND


async def test_files_only_from_folders_that_were_named(puller: Puller, tmp_path: Path) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "a").write_bytes(b"a")
    (tmp_path / "models" / "out").symlink_to("/etc")
    with await puller.pull(parse_location(f"file://{tmp_path}/models/m")) as pulled:
        assert tree(pulled.path) == {"a": b"a"}
    for path in ("/etc/passwd", f"{tmp_path}/models/out/passwd", f"{tmp_path}/modelsx"):
        Path(tmp_path / "modelsx").touch()
        with pytest.raises(StorageError, match="outside of the folders") as error:
            await puller.pull(parse_location(f"file://{path}"))
        assert error.value.code is Status.PERMISSION_DENIED


async def test_a_folder_of_too_many_files(puller: Puller, claim: Path) -> None:
    for number in range(2001):
        (claim / "m" / str(number)).touch()
    with pytest.raises(StorageError, match="more than the 2000 files") as error:
        await puller.pull(parse_location("pvc://claim/m"))
    assert error.value.code is Status.RESOURCE_EXHAUSTED
