"""Archives of strangers."""

import gzip
import io
import stat
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from conftest import make_puller, nothing_left, tree
from doubles import Files, serving

from modelmesh.storage import Limits, Puller, StorageError, parse_location
from modelmesh.storage.archives import Stopped, Unpacking, unpack
from modelmesh.values.status import Status

MIB = 1024 * 1024


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, packed: str = "gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{packed}", **({"compresslevel": 1} if packed else {})) as made:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                made.addfile(member, io.BytesIO(b"\0" * member.size))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                made.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def special(name: str, kind: bytes, to: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = to
    return info


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for name, content in members:
            made.writestr(name, content)
    return out.getvalue()


def zip_link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def work(**more: object) -> Unpacking:
    options: dict[str, object] = {
        "place": "here",
        "limits": Limits(max_files=100, max_bytes=512 * MIB, max_unpacked_ratio=10),
        "room": lambda _size: None,
        "wrote": lambda _size: None,
        "stop": threading.Event(),
        **more,
    }
    return Unpacking(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar", ".zip"])
async def test_an_archive_that_a_uri_names_is_unpacked(puller: Puller, suffix: str) -> None:
    members = [("model/weights.bin", b"w" * 100_000), ("model/empty", b""), ("./top", b"t")]
    content = zipped(*members) if suffix == ".zip" else tar(*members, packed="" if suffix == ".tar" else "gz")
    async with serving(Files({f"/m{suffix}": content})) as url:
        with await puller.pull(parse_location(f"{url}/m{suffix}")) as pulled:
            expected = {"model/weights.bin": b"w" * 100_000, "model/empty": b"", "top": b"t"}
            assert tree(pulled.path) == expected
            assert (pulled.size_bytes, pulled.files) == (100_001, 3)
        with await puller.pull(parse_location(f"{url}/m{suffix}")) as again:
            assert tree(again.path) == expected


LONG = tarfile.TarInfo("x")
LONG.type = tarfile.XHDTYPE
LONG.size = 200 * MIB

HOSTILE = {
    "parent": tar(("../evil", b"x")),
    "inner parent": tar(("a/../../evil", b"x")),
    "absolute": tar(("/etc/evil", b"x")),
    "symbolic link": tar(special("link", tarfile.SYMTYPE, "/etc")),
    "link then through it": tar(special("link", tarfile.SYMTYPE, "/tmp"), ("link/evil", b"x")),
    "hard link": tar(special("link", tarfile.LNKTYPE, "/etc/passwd")),
    "device": tar(special("null", tarfile.CHRTYPE)),
    "fifo": tar(special("fifo", tarfile.FIFOTYPE)),
    "control characters": tar(("a\nb", b"x")),
    "long name": tar(("n" * 300, b"x")),
    "file and folder": tar(("a", b"x"), ("a/b", b"x")),
    "folder and file": tar(("a/b", b"x"), ("a", b"x")),
    "header of 200 MiB": gzip.compress(LONG.tobuf() + b"\0" * 2048),
    "damaged gzip": tar(("a", b"x" * 1000))[:-20],
    "no archive": b"<html>not found</html>" * 100,
    "zip parent": zipped(("../evil", b"x")),
    "zip absolute": zipped(("/evil", b"x")),
    "zip link": zipped((zip_link(), b"/etc")),
    "zip damaged": zipped(("a", b"x" * 1000))[:-10],
    "zip inside damaged": zipped(("a", bytes(range(256)) * 40)).replace(b"\x00\x01\x02\x03", b"\xff\xff\xff\xff", 1)[
        ::-1
    ],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused_and_write_nothing_outside(tmp_path: Path, what: str) -> None:
    name = "m.zip" if what.startswith("zip") else "m.tar.gz"
    (tmp_path / name).write_bytes(HOSTILE[what])
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    with pytest.raises(StorageError) as error:
        unpack(tmp_path / name, name, into, work())
    assert error.value.code is Status.INVALID_ARGUMENT
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["into"]
    assert not any(path.is_symlink() for path in into.rglob("*"))


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.GNU_FORMAT, encoding="latin-1") as made:
        made.addfile(tarfile.TarInfo("caf\xe9"))
    (tmp_path / "m.tgz").write_bytes(out.getvalue())
    with pytest.raises(StorageError, match="not UTF-8"):
        unpack(tmp_path / "m.tgz", "m.tgz", tmp_path, work())


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_bomb_is_stopped_early(tmp_path: Path, kind: str) -> None:
    zeros = b"\0" * (100 * MIB)
    content = zipped(("bomb", zeros)) if kind == "zip" else tar(("bomb", zeros))
    (tmp_path / f"m.{kind}").write_bytes(content)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(StorageError, match="bomb") as error:
        unpack(tmp_path / f"m.{kind}", f"m.{kind}", into, work())
    assert error.value.code is Status.RESOURCE_EXHAUSTED
    written = sum(path.stat().st_size for path in into.rglob("*"))
    assert written < len(content) * 10 + 70 * MIB


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_many_files_are_stopped(tmp_path: Path, kind: str) -> None:
    members = [(f"{number}", b"") for number in range(200)]
    (tmp_path / f"m.{kind}").write_bytes(zipped(*members) if kind == "zip" else tar(*members))
    (tmp_path / "into").mkdir()
    with pytest.raises(StorageError, match="more than 100 files"):
        unpack(tmp_path / f"m.{kind}", f"m.{kind}", tmp_path / "into", work())
    assert len(list((tmp_path / "into").iterdir())) <= 100


def test_a_table_of_contents_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    end = bytearray(zipped(("a", b"x"))[-22:])
    end[12:16] = (1 << 31).to_bytes(4, "little")
    (tmp_path / "m.zip").write_bytes(zipped(("a", b"x"))[:-22] + end)
    with pytest.raises(StorageError, match="table of contents") as error:
        unpack(tmp_path / "m.zip", "m.zip", tmp_path, work())
    assert error.value.code is Status.RESOURCE_EXHAUSTED


def test_unpacking_stops_when_nobody_wants_it(tmp_path: Path) -> None:
    stop = threading.Event()
    (tmp_path / "m.tar").write_bytes(tar(("a", b"\0" * (8 * MIB)), packed=""))
    with pytest.raises(Stopped):
        unpack(tmp_path / "m.tar", "m.tar", tmp_path, work(stop=stop, wrote=lambda _size: stop.set()))


async def test_what_comes_out_must_fit_the_budget(tmp_path: Path) -> None:
    """The archive fits; what is in it does not, which shows while it is unpacked."""
    content = tar(("a", b"\0" * (80 * MIB)))
    async with make_puller(tmp_path / "cache", budget=100 * MIB, limits=Limits(max_unpacked_ratio=10_000)) as puller:
        async with serving(Files({"/m.tgz": content})) as url:
            with pytest.raises(StorageError) as error:
                await puller.pull(parse_location(f"{url}/m.tgz"))
        await puller.cache.close()
        assert error.value.code is Status.RESOURCE_EXHAUSTED
        assert "budget" in str(error.value)
        assert nothing_left(puller.cache)


async def test_an_archive_with_nothing_in_it(puller: Puller) -> None:
    async with serving(Files({"/m.tgz": tar()})) as url:
        with pytest.raises(StorageError, match="nothing is in the archive") as error:
            await puller.pull(parse_location(f"{url}/m.tgz"))
    assert error.value.code is Status.NOT_FOUND
