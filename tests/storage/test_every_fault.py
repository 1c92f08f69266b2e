"""Each fault of a store, of what is in it and of the disk: the code, the text, and what is left.

The texts name the location and what to do next. They have no secret of the settings, of the query or of the store's own words.
Nothing is left in the cache.
"""

import errno
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from conftest import S3, make_puller, nothing_left
from doubles import Files, Handler, archive, serving

from modelmesh.storage import Limits, Location, Places, Puller, StorageError, parse_location
from modelmesh.values.status import Status

SECRETS = ("TOPSECRET", "SECRETOFTHETEST", "AKIDOFTHETEST")
BODY = bytes(300_000)
LIMITS = Limits(max_files=50, max_bytes=1_000_000)


def http(url: str, path: str = "m/model.bin") -> Location:
    settings = {"headers": '{"Authorization": "Bearer TOPSECRET"}'}
    return parse_location(f"{url}/{path}?sig=TOPSECRET").with_settings(settings)


def s3(url: str) -> Location:
    return S3(url).location("s3://bkt/m/model")


def answers(status: int, text: str = "TOPSECRET", **headers: str) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers=headers)

    return answer


def s3_error(status: int, code: str) -> Handler:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>SECRETOFTHETEST</Message></Error>"
    return answers(status, text, **{"Content-Type": "application/xml"})


def after_the_first_byte(answer: Callable[[web.Request, int], Awaitable[web.StreamResponse | None]]) -> Handler:
    """A server that knows the file, and does something else when it is read."""
    files = Files({"/m/model.bin": BODY})
    count = [0]

    async def fault(request: web.Request) -> web.StreamResponse | None:
        count[0] += 1
        return None if request.headers.get("Range") == "bytes=0-0" else await answer(request, count[0])

    files.faults.append(fault)
    return files


async def short(request: web.Request, _: int) -> web.StreamResponse:
    tag = f'"{hashlib.md5(BODY).hexdigest()}"'
    answer = web.StreamResponse(headers={"Content-Length": str(len(BODY)), "ETag": tag})
    await answer.prepare(request)
    await answer.write(BODY[:1000])
    assert request.transport is not None
    request.transport.close()
    return answer


async def changed(_request: web.Request, count: int) -> web.StreamResponse:
    return web.Response(status=412, headers={"ETag": f'"{count}"'})


async def storm(_request: web.Request, _: int) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": "0"})


async def loop(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": str(request.url)})


def listing(*keys: str) -> Handler:
    """A bucket whose keys no honest program would have made."""
    rows = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    text = (
        f"<?xml version='1.0'?><ListBucketResult><Name>bkt</Name><IsTruncated>false</IsTruncated>{rows}"
        "</ListBucketResult>"
    )

    async def answer(request: web.Request) -> web.StreamResponse:
        if "list-type" not in request.query:
            return web.Response(status=404)
        return web.Response(text=text, content_type="application/xml")

    return answer


FAULTS: dict[str, tuple[Handler, Callable[[str], Location], Status, str]] = {
    "no bucket": (s3_error(404, "NoSuchBucket"), s3, Status.NOT_FOUND, "check the path"),
    "no object": (listing(), s3, Status.NOT_FOUND, "check the path"),
    "no file": (answers(404), http, Status.NOT_FOUND, "check the path"),
    "no permission, S3": (s3_error(403, "AccessDenied"), s3, Status.PERMISSION_DENIED, "the right to list and read"),
    "no permission": (answers(403), http, Status.PERMISSION_DENIED, "the right to list and read"),
    "no credentials": (answers(401), http, Status.UNAUTHENTICATED, "give valid credentials"),
    "expired token": (s3_error(400, "ExpiredToken"), s3, Status.UNAUTHENTICATED, "give valid credentials"),
    "wrong region": (s3_error(301, "PermanentRedirect"), s3, Status.INVALID_ARGUMENT, "set `region`"),
    "redirect loop": (loop, http, Status.FAILED_PRECONDITION, "is it a loop?"),
    "429 without end": (after_the_first_byte(storm), http, Status.UNAVAILABLE, "try again later"),
    "503 without end": (answers(503), http, Status.UNAVAILABLE, "try again later"),
    "503 of S3 without end": (s3_error(503, "SlowDown"), s3, Status.UNAVAILABLE, "try again later"),
    "short bodies": (after_the_first_byte(short), http, Status.UNAVAILABLE, "try again later"),
    "changed all the time": (after_the_first_byte(changed), http, Status.ABORTED, "pull again"),
    "garbage for a listing": (answers(200, "<html>TOPSECRET"), s3, Status.UNAVAILABLE, "try again later"),
    "compressed": (
        answers(200, "x", **{"Content-Encoding": "br"}),
        http,
        Status.FAILED_PRECONDITION,
        "turn that off there",
    ),
    "name with ..": (listing("m/model/../../x"), s3, Status.INVALID_ARGUMENT, "rename"),
    "name that is absolute": (listing("m/model//etc/passwd"), s3, Status.INVALID_ARGUMENT, "rename"),
    "name of 4 KB": (listing("m/model/" + "n" * 4096), s3, Status.INVALID_ARGUMENT, "rename"),
    "too many files": (
        listing(*(f"m/model/{number}" for number in range(51))),
        s3,
        Status.RESOURCE_EXHAUSTED,
        "name a deeper path",
    ),
    "archive that bombs": (
        Files({"/m/p.tar.gz": archive({"zeros": bytes(2_000_000)})}),
        lambda url: http(url, "m/p.tar.gz"),
        Status.RESOURCE_EXHAUSTED,
        "is it a bomb?",
    ),
    "archive that leads out": (
        Files({"/m/p.tar.gz": archive({"../x": b"evil"})}),
        lambda url: http(url, "m/p.tar.gz"),
        Status.INVALID_ARGUMENT,
        "rename",
    ),
    "archive that is none": (
        Files({"/m/p.tar.gz": b"no archive"}),
        lambda url: http(url, "m/p.tar.gz"),
        Status.INVALID_ARGUMENT,
        "upload it again",
    ),
    "nobody there": (answers(200), lambda _: http("http://127.0.0.1:1"), Status.UNAVAILABLE, "try again later"),
    "nobody there, S3": (answers(200), lambda _: s3("http://127.0.0.1:1"), Status.UNAVAILABLE, "try again later"),
}


async def refused(puller: Puller, location: Location) -> StorageError:
    with pytest.raises(StorageError) as error:
        await puller.pull(location)
    await puller.cache.close()
    text = str(error.value)
    assert location.text in text
    assert not [secret for secret in SECRETS if secret in text]
    assert "\n" not in text
    assert not puller.cache.folder.exists() or nothing_left(puller.cache)
    return error.value


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr("modelmesh.storage.sources.objects._RETRY", {"max_retries": 0})
    handler, location, code, step = FAULTS[fault]
    async with make_puller(tmp_path / "cache", limits=LIMITS) as puller, serving(handler) as url:
        error = await refused(puller, location(url))
    assert error.code is code, error
    assert step in str(error)


DISK = [
    (errno.ENOSPC, Status.RESOURCE_EXHAUSTED, "free disk space"),
    (errno.EDQUOT, Status.RESOURCE_EXHAUSTED, "free disk space"),
    (errno.EROFS, Status.FAILED_PRECONDITION, "must be able to write there"),
    (errno.EIO, Status.FAILED_PRECONDITION, "must be able to write there"),
    (errno.EMFILE, Status.UNAVAILABLE, "raise the limit of open files"),
]


@pytest.mark.parametrize(("number", "code", "step"), DISK, ids=[errno.errorcode[number] for number, _, _ in DISK])
async def test_a_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: Status, step: str
) -> None:
    def failing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    async with make_puller(tmp_path / "cache") as puller, serving(Files({"/m/model.bin": BODY})) as url:
        monkeypatch.setattr(os, "pwrite", failing)
        error = await refused(puller, http(url))
    assert error.code is code
    assert step in str(error)
    assert str(tmp_path / "cache") in str(error)


async def test_a_model_that_does_not_fit_the_budget(tmp_path: Path) -> None:
    async with make_puller(tmp_path / "cache", budget=1000) as puller, serving(Files({"/m/model.bin": BODY})) as url:
        error = await refused(puller, http(url))
    assert error.code is Status.RESOURCE_EXHAUSTED
    assert "unload models, or give the cache more" in str(error)
    assert f"{len(BODY)} bytes" in str(error)
    assert "budget of 1000" in str(error)


def link_out(folder: Path) -> None:
    (folder / "out").symlink_to("/etc")


def link_to_itself(folder: Path) -> None:
    (folder / "again").symlink_to("again")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def name_that_is_not_utf8(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff"))).touch()


@pytest.mark.parametrize(
    ("make", "uri", "code", "step"),
    [
        (link_out, "pvc://claim/m", Status.PERMISSION_DENIED, "copy the file there"),
        (link_to_itself, "pvc://claim/m", Status.INVALID_ARGUMENT, "remove it"),
        (pipe, "pvc://claim/m", Status.INVALID_ARGUMENT, "remove it"),
        (name_that_is_not_utf8, "pvc://claim/m", Status.INVALID_ARGUMENT, "rename the file"),
        (None, "pvc://claim/gone", Status.NOT_FOUND, "check the path"),
        (None, "pvc://other/m", Status.FAILED_PRECONDITION, "mount it in this pod"),
        (None, "file:///etc/passwd", Status.PERMISSION_DENIED, "have its folder named"),
    ],
)
async def test_a_fault_of_a_folder(
    tmp_path: Path, make: Callable[[Path], None] | None, uri: str, code: Status, step: str
) -> None:
    claims = tmp_path / "claims"
    (claims / "claim" / "m").mkdir(parents=True)
    (claims / "claim" / "m" / "model").write_bytes(b"x")
    if make is not None:
        make(claims / "claim" / "m")
    async with make_puller(tmp_path / "cache", places=Places(claims, (tmp_path / "models",))) as puller:
        error = await refused(puller, parse_location(uri))
    assert error.code is code
    assert step in str(error)
