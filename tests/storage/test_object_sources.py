"""S3 through a real client library and a server that answers as S3 does; and one that does not."""

import asyncio
import contextlib
import gc
import json
import os
from pathlib import Path

import obstore
import pytest
from aiohttp import web
from conftest import S3, make_puller, nothing_left, tree
from doubles import serving

from modelmesh.storage import Kind, Location, ModelFolders, Progress, Puller, Stage, StorageError, parse_location
from modelmesh.storage.credentials import secrets_of
from modelmesh.storage.sources.objects import ObjectSource
from modelmesh.values.status import Status


@pytest.fixture(scope="module")
def bucket(s3: S3) -> S3:
    """Folders, markers of folders, files without bytes, and a name that begins as another ends."""
    s3.put(
        **{
            "m/mnist/a.txt": b"hello",
            "m/mnist/empty.py": b"",
            "m/mnist/sub/x": b"x" * 100_000,
            "m/mnist/sub/deeper/é ü%41+": b"name",
            "m/mnist2/y": b"y",
            "single.onnx": b"s" * 10,
            "big": os.urandom(1_000_003),
            "latest": b"",
        }
    )
    for marker in ("m/mnist/", "m/mnist/sub/"):
        s3.raw("PUT", f"bkt/{marker}")
    return s3


@pytest.mark.parametrize("path", ["m/mnist", "m/mnist/", "/m/mnist"])
async def test_a_folder_comes_whole_with_files_that_are_empty(puller: Puller, bucket: S3, path: str) -> None:
    """Files without bytes were dropped: an empty `__init__.py`, a marker of a version."""
    reports: list[Progress] = []
    with await puller.pull(bucket.location(f"s3://bkt/{path}"), reports.append) as pulled:
        assert {name: len(content) for name, content in tree(pulled.path).items()} == {
            "a.txt": 5,
            "empty.py": 0,
            "sub/x": 100_000,
            "sub/deeper/é ü%41+": 4,
        }
        assert pulled.size_bytes == 100_009
    assert (reports[0].stage, reports[-1].stage) == (Stage.LISTING, Stage.READY)
    fetching = [report for report in reports if report.stage is Stage.FETCHING]
    assert fetching[-1] == Progress(Stage.FETCHING, 100_009, 100_009, 4, 4)


async def test_a_single_object(puller: Puller, bucket: S3) -> None:
    with await puller.pull(bucket.location("s3://bkt/single.onnx")) as pulled:
        assert pulled.path.is_file()
        assert (pulled.path.name, pulled.path.read_bytes()) == ("single.onnx", b"s" * 10)
    with await puller.pull(bucket.location("s3://bkt/latest")) as empty:
        assert empty.path.read_bytes() == b""


async def test_a_large_object_in_parts_is_what_it_was(puller: Puller, bucket: S3) -> None:
    with await puller.pull(bucket.location("s3://bkt/big")) as pulled:
        assert pulled.path.read_bytes() == bytes(obstore.get(bucket.store(), "big").bytes())


async def test_more_objects_than_a_page_holds(puller: Puller, s3: S3) -> None:
    """The old listing ended after the first hundred."""
    store, numbers = s3.store(), iter(range(1010))

    async def put() -> None:
        for number in numbers:
            await obstore.put_async(store, f"many/{number:04}", b"x")

    await asyncio.gather(*(put() for _ in range(16)))
    plan = await puller.plan(s3.location("s3://bkt/many"))
    assert [file.name for file in plan.files] == [f"{number:04}" for number in range(1010)]


async def test_a_second_pull_fetches_nothing(tmp_path: Path, bucket: S3) -> None:
    read: list[str] = []

    class Counting(ObjectSource):
        def read(self, file, start, end):
            read.append(file.name)
            return super().read(file, start, end)

    location = bucket.location("s3://bkt/m/mnist")
    async with make_puller(tmp_path / "cache", opener=lambda at: Counting(at, {})) as puller:
        (await puller.pull(location)).release()
        assert sorted(read) == ["a.txt", "empty.py", "sub/deeper/é ü%41+", "sub/x"]
        read.clear()
        (await puller.pull(location)).release()
        folders = ModelFolders(tmp_path / "models", puller, lambda _name: json.dumps({"type": "s3", **bucket.settings}))
        key = json.dumps({"storage_key": "k", "storage_params": {"bucket": "bkt"}})
        for name in ("one", "two"):
            await folders.bring(name, "m/mnist", key)
    assert read == []


async def test_plan_says_how_much_before_anything_is_fetched(puller: Puller, bucket: S3) -> None:
    plan = await puller.plan(bucket.location("s3://bkt/m/mnist"))
    assert (plan.size_bytes, len(plan.files)) == (100_009, 4)
    assert not puller.cache.folder.exists()


@pytest.mark.parametrize("uri", ["s3://bkt/nothing", "s3://bkt/m/mnis", "s3://bkt/nothing/", "s3://bkt/single.onnx/"])
async def test_nothing_there_is_an_error_that_names_it(puller: Puller, bucket: S3, uri: str) -> None:
    """The old puller called it a success, and the model failed later for another reason."""
    with pytest.raises(StorageError) as error:
        await puller.pull(bucket.location(uri))
    assert error.value.code is Status.NOT_FOUND
    assert uri in str(error.value)


async def test_a_bucket_that_is_not_there(puller: Puller, s3: S3) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket") as error:
        await puller.pull(s3.location("s3://nobucket/m"))
    assert error.value.code is Status.NOT_FOUND


async def test_without_permission(puller: Puller, bucket: S3) -> None:
    location = parse_location("s3://bkt/m").with_settings({"endpoint_url": bucket.url, "anonymous": "true"})
    with pytest.raises(StorageError) as error:
        await puller.pull(location)
    assert error.value.code is Status.PERMISSION_DENIED


async def test_a_pull_that_fails_harms_no_other(puller: Puller, bucket: S3) -> None:
    """With the credentials of one that had failed, every later pull of the old puller failed, until the hour was over."""
    missing, there = bucket.location("s3://bkt/nothing"), bucket.location("s3://bkt/single.onnx")
    for _ in range(2):
        found = await asyncio.gather(*(puller.pull(at) for at in [missing, there] * 6), return_exceptions=True)
        for failed, pulled in zip(found[::2], found[1::2], strict=True):
            assert isinstance(failed, StorageError)
            assert failed.code is Status.NOT_FOUND
            assert not isinstance(pulled, BaseException)
            pulled.release()


async def test_more_refusals_than_streams_end_the_pull(puller: Puller) -> None:
    """The old puller waited without end when every one of its workers had failed."""
    keys = "".join(
        f"<Contents><Key>m/{number}</Key><Size>9</Size><ETag>e</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for number in range(40)
    )
    listing = f"<ListBucketResult><Name>bkt</Name><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>"

    async def refuse(request: web.Request) -> web.StreamResponse:
        if "list-type" in request.query:
            return web.Response(text=listing, content_type="application/xml")
        return web.Response(status=403)

    async with serving(refuse) as url, asyncio.timeout(20):
        with pytest.raises(StorageError) as error:
            await puller.pull(S3(url).location("s3://bkt/m"))
    await puller.cache.close()
    assert error.value.code is Status.PERMISSION_DENIED
    assert nothing_left(puller.cache)


REFUSING = {
    "s3": lambda url: S3(url).location("s3://bkt/m"),
    "gs": lambda url: parse_location("gs://bkt/m").with_settings({"endpoint_url": url}),
    "az": lambda url: Location(Kind.AZ, "account/bkt", "m").with_settings(
        {"endpoint_url": url, "account_key": "a2V5a2V5"}
    ),
}


@pytest.mark.parametrize("kind", REFUSING)
async def test_no_store_takes_a_refusal_for_an_empty_folder(puller: Puller, kind: str) -> None:
    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=403)

    async with serving(refuse) as url:
        with pytest.raises(StorageError) as error:
            await puller.pull(REFUSING[kind](url))
    assert error.value.code is Status.PERMISSION_DENIED


async def test_a_session_token_is_sent(puller: Puller) -> None:
    seen = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("x-amz-security-token"))
        return web.Response(status=403)

    async with serving(note) as url:
        with pytest.raises(StorageError):
            await puller.pull(parse_location("s3://bkt/m").with_settings({**S3(url).settings, "session_token": "TOK"}))
    assert set(seen) == {"TOK"}


async def test_few_files_are_open_at_once(puller: Puller, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old puller opened all files of a model before the first was fetched."""
    s3.put(**{f"open/{number}": b"x" * 1000 for number in range(60)})
    most, opened = [0], os.open

    def counted(path: str, *more: object, **options: object) -> int:
        fd = opened(path, *more, **options)  # type: ignore[arg-type]
        parts = 0
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                parts += "/partial/" in str(link.readlink())
        most[0] = max(most[0], parts)
        return fd

    monkeypatch.setattr(os, "open", counted)
    (await puller.pull(s3.location("s3://bkt/open"))).release()
    assert 1 <= most[0] <= 2 * 8, "eight streams"


async def test_a_file_that_is_done_is_forgotten(puller: Puller, s3: S3) -> None:
    """Of a model with many files nothing grows with those that are there already."""
    s3.put(**{f"done/{number:03}": b"x" * 10 for number in range(120)})
    kept = []

    def count(progress: Progress) -> None:
        if progress.stage is Stage.PUBLISHING:
            gc.collect()  # pulls of other tests that failed, as they should, hold theirs until then
            kept.append(sum(type(one).__name__ == "_Opened" for one in gc.get_objects()))

    (await puller.pull(s3.location("s3://bkt/done"), count)).release()
    assert kept
    assert max(kept) <= 2 * 8, "eight streams"


HOSTILE = ["h/../x", "h//x", "h/./x", "h/a%00b", "h/" + "n" * 300, "h/" + "/".join(["n" * 200] * 5)]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
async def test_hostile_names_are_refused(puller: Puller, s3: S3, number: int) -> None:
    s3.raw("PUT", f"hostile{number}")
    s3.raw("PUT", f"hostile{number}/{HOSTILE[number]}", b"evil")
    location = s3.location(f"s3://hostile{number}/h")
    if number == len(HOSTILE) - 1:  # deep, and all right
        (await puller.pull(location)).release()
        return
    with pytest.raises(StorageError) as error:
        await puller.pull(location)
    assert error.value.code is Status.INVALID_ARGUMENT
    assert "\n" not in str(error.value)
    assert "\0" not in str(error.value)


async def test_a_file_and_a_folder_of_one_name(puller: Puller, s3: S3) -> None:
    s3.put(**{"clash/a": b"file", "clash/a/b": b"below"})
    with pytest.raises(StorageError, match="is a file, and the folder of") as error:
        await puller.pull(s3.location("s3://bkt/clash"))
    assert error.value.code is Status.INVALID_ARGUMENT


ANSWERS = [
    (403, "AccessDenied", Status.PERMISSION_DENIED),
    (403, "InvalidAccessKeyId", Status.UNAUTHENTICATED),
    (403, "SignatureDoesNotMatch", Status.UNAUTHENTICATED),
    (400, "ExpiredToken", Status.UNAUTHENTICATED),
    (400, "AuthorizationHeaderMalformed", Status.INVALID_ARGUMENT),
    (301, "PermanentRedirect", Status.INVALID_ARGUMENT),
    (503, "SlowDown", Status.UNAVAILABLE),
    (500, "InternalError", Status.UNAVAILABLE),
]


@pytest.mark.parametrize(("status", "code", "means"), ANSWERS, ids=[code for _, code, _ in ANSWERS])
async def test_what_s3_refuses_has_a_code_of_ours(
    puller: Puller, monkeypatch: pytest.MonkeyPatch, status: int, code: str, means: Status
) -> None:
    monkeypatch.setattr("modelmesh.storage.sources.objects._RETRY", {"max_retries": 0})

    async def refuse(_request: web.Request) -> web.StreamResponse:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>SECRETOFTHETEST</Message></Error>"
        return web.Response(status=status, text=body, content_type="application/xml")

    async with serving(refuse) as url:
        with pytest.raises(StorageError) as error:
            await puller.pull(S3(url).location("s3://bkt/m"))
    assert error.value.code is means
    assert "s3://bkt/m" in str(error.value)
    assert "SECRETOFTHETEST" not in str(error.value)


@pytest.mark.parametrize("body", ["", "<html>no xml of S3</html>", "\0\0\0", "<ListBucketResult>" * 1000])
async def test_nonsense_for_a_listing(puller: Puller, body: str) -> None:
    async def nonsense(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=body, content_type="application/xml")

    async with serving(nonsense) as url:
        with pytest.raises(StorageError):
            await puller.pull(S3(url).location("s3://bkt/m"))
    assert nothing_left(puller.cache) if (puller.cache.folder / "entries").exists() else True


async def test_an_endpoint_that_is_not_there(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelmesh.storage.sources.objects._RETRY", {"max_retries": 0})
    with pytest.raises(StorageError) as error:
        await puller.pull(S3("http://127.0.0.1:1").location("s3://bkt/m"))
    assert error.value.code is Status.UNAVAILABLE


@pytest.mark.parametrize(
    "location",
    [
        Location(Kind.GS, "bkt", "m").with_settings({"private_key": "TOPSECRET"}),
        Location(Kind.GS, "bkt", "m").with_settings({"private_key": "TOPSECRET", "client_email": "a@b"}),
        Location(Kind.AZ, "account/ctr", "m").with_settings({"account_key": "TOPSECRET-no-base64!"}),
        Location(Kind.AZ, "account/ctr", "m").with_settings(
            {"connection_string": "AccountKey=TOPSECRET!;AccountName=x"}
        ),
        Location(Kind.S3, "bkt", "m").with_settings({"certificate": "TOPSECRET"}),
    ],
    ids=range(5),
)
async def test_settings_that_cannot_be_used_are_not_shown(puller: Puller, location: Location) -> None:
    with pytest.raises(StorageError) as error:
        await puller.pull(location)
    assert error.value.code is Status.INVALID_ARGUMENT
    assert "TOPSECRET" not in str(error.value)


def test_what_counts_as_secret() -> None:
    location = parse_location("https://h/m?sig=ABCDEF").with_settings(
        {
            "headers": '{"Authorization": "Bearer TOKEN"}',
            "region": "us-east-1",
            "secret_access_key": "KEYKEY",
            "new": "x1",
        }
    )
    found = secrets_of(location, {"HF_TOKEN": "hf_token", "HOME": "/root"})
    assert {"TOKEN", "KEYKEY", "sig=ABCDEF", "hf_token"} <= set(found)
    assert "us-east-1" not in found
    assert "/root" not in found


async def test_a_package_that_is_missing_is_named(puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(StorageError, match=r"pip install pymodelmesh\[storage\]") as error:
        await puller.pull(parse_location("s3://bkt/m"))
    assert error.value.code is Status.FAILED_PRECONDITION
