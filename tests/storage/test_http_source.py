"""Files over HTTP: servers with and without ranges, lengths and tags, and all the ways to answer wrongly."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from conftest import nothing_left, tree
from doubles import Files, first, serving

from modelmesh.storage import Puller, StorageError, parse_location
from modelmesh.values.status import Status

BODY = bytes(range(256)) * 4096  # 1 MiB


async def refused(puller: Puller, url: str, **settings: str) -> StorageError:
    with pytest.raises(StorageError) as error:
        await puller.pull(parse_location(url).with_settings(settings))
    await puller.cache.close()
    if (puller.cache.folder / "entries").exists():
        assert nothing_left(puller.cache)
    return error.value


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("lengths", [True, False])
@pytest.mark.parametrize("size", [0, 1, 1000, len(BODY)])
async def test_a_file_arrives_whole(puller: Puller, ranges: bool, lengths: bool, size: int) -> None:
    files = Files({"/m/model.onnx": BODY[:size]}, ranges=ranges, lengths=lengths)
    async with serving(files) as url:
        location = parse_location(f"{url}/m/model.onnx")
        with await puller.pull(location) as pulled:
            assert pulled.path.name == "model.onnx"
            assert pulled.path.read_bytes() == BODY[:size]
            assert pulled.size_bytes == size
        sent = files.sent
        with await puller.pull(location) as again:
            assert again.path.read_bytes() == BODY[:size]
        # The second time only what an answer's head costs: nothing, or one byte, or a body that nobody reads.
        assert puller.cache.usage().entries == 1
        if ranges:
            assert files.sent - sent <= 1


async def test_large_files_come_in_parts_at_once(puller: Puller) -> None:
    files = Files({"/big": BODY})
    async with serving(files) as url:
        with await puller.pull(parse_location(f"{url}/big")) as pulled:
            assert pulled.path.read_bytes() == BODY
    assert len(files.requests) == 1 + 16  # parts of 64 KiB


async def test_a_file_without_any_tag_is_fetched_each_time(puller: Puller) -> None:
    files = Files({"/m": b"one"}, tags=False)
    async with serving(files) as url:
        with await puller.pull(parse_location(f"{url}/m")) as pulled:
            assert pulled.path.read_bytes() == b"one"
        files.files["/m"] = b"two"
        with await puller.pull(parse_location(f"{url}/m")) as pulled:
            assert pulled.path.read_bytes() == b"two"


async def test_changed_content_is_pulled_and_the_old_stays_while_it_is_held(puller: Puller) -> None:
    files = Files({"/m": b"one"})
    async with serving(files) as url:
        old = await puller.pull(parse_location(f"{url}/m"))
        files.files["/m"] = b"two"
        new = await puller.pull(parse_location(f"{url}/m"))
    assert (old.path.read_bytes(), new.path.read_bytes()) == (b"one", b"two")
    old.release()
    new.release()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Status.INVALID_ARGUMENT),
        (401, Status.UNAUTHENTICATED),
        (403, Status.PERMISSION_DENIED),
        (404, Status.NOT_FOUND),
        (410, Status.NOT_FOUND),
        (429, Status.UNAVAILABLE),
        (500, Status.UNAVAILABLE),
        (503, Status.UNAVAILABLE),
    ],
)
async def test_a_status_has_a_code_and_a_page_of_errors_is_no_model(puller: Puller, status: int, code: Status) -> None:
    files = Files({}, faults=[first(10**9, lambda: web.Response(status=status, text="<h1>sorry</h1>"))])
    async with serving(files) as url:
        error = await refused(puller, f"{url}/a/b?sig=TOPSECRET", headers='{"Authorization": "Bearer TOPSECRET"}')
    assert error.code is code
    assert f"{url}/a/b" in str(error)
    assert str(status) in str(error)
    assert "TOPSECRET" not in str(error)


async def test_a_storm_of_503_passes(puller: Puller) -> None:
    async def storm(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Range") != "bytes=0-0" and len(files.requests) < 20:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return None

    files = Files({"/m": BODY[:500_000]}, faults=[storm])
    async with serving(files) as url:
        with await puller.pull(parse_location(f"{url}/m")) as pulled:
            assert pulled.path.read_bytes() == BODY[:500_000]


async def test_a_storm_that_does_not_pass_is_given_up(puller: Puller) -> None:
    async def storm(request: web.Request) -> web.StreamResponse | None:
        return None if request.headers.get("Range") == "bytes=0-0" else web.Response(status=429)

    files = Files({"/m": BODY}, faults=[storm])
    async with serving(files) as url:
        error = await refused(puller, f"{url}/m")
    assert error.code is Status.UNAVAILABLE
    assert len(files.requests) < 200


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_body_that_breaks_off_is_taken_up_again(puller: Puller, ranges: bool) -> None:
    broken = []

    async def cut(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Range") == "bytes=0-0" or len(broken) >= 3:
            return None
        broken.append(request.headers.get("Range"))
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        answer = await files.body(request, BODY)
        assert isinstance(answer, web.Response)
        short = web.StreamResponse(status=answer.status, headers=answer.headers)
        short.content_length = len(answer.body)  # type: ignore[arg-type]
        await short.prepare(request)
        await short.write(BODY[start : start + 1000])
        assert request.transport is not None
        request.transport.close()
        return short

    files = Files({"/m": BODY}, ranges=ranges, faults=[cut])
    async with serving(files) as url:
        with await puller.pull(parse_location(f"{url}/m")) as pulled:
            assert pulled.path.read_bytes() == BODY
    assert len(broken) == 3


async def test_a_body_that_is_always_short_is_an_error(puller: Puller) -> None:
    async def cut(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Range") == "bytes=0-0":
            return None
        answer = web.StreamResponse(headers=(await files.body(request, BODY)).headers)
        answer.content_length = len(BODY)
        await answer.prepare(request)
        assert request.transport is not None
        request.transport.close()
        return answer

    files = Files({"/m": BODY}, ranges=False, faults=[cut])
    async with serving(files) as url:
        error = await refused(puller, f"{url}/m")
    assert error.code is Status.UNAVAILABLE


async def test_a_file_that_changes_while_it_is_pulled_is_pulled_anew(puller: Puller) -> None:
    async def change(request: web.Request) -> web.StreamResponse | None:
        if len(files.requests) == 5:
            files.files["/m"] = BODY[::-1]
        return None

    files = Files({"/m": BODY}, faults=[change])
    async with serving(files) as url:
        with await puller.pull(parse_location(f"{url}/m")) as pulled:
            assert pulled.path.read_bytes() == BODY[::-1]


async def test_a_file_that_changes_all_the_time_is_given_up(puller: Puller) -> None:
    async def change(_request: web.Request) -> web.StreamResponse | None:
        files.files["/m"] = BODY + str(len(files.requests)).encode()
        return None

    files = Files({"/m": BODY}, faults=[change])
    async with serving(files) as url:
        error = await refused(puller, f"{url}/m")
    assert error.code is Status.ABORTED
    assert "changed while it was pulled" in str(error)


async def test_redirects_are_followed_and_credentials_stay(puller: Puller) -> None:
    target = Files({"/real": b"content"})

    async def secretive(request: web.Request) -> web.StreamResponse:
        assert "Authorization" not in request.headers
        assert "X-Key" not in request.headers
        return await target(request)

    async with serving(secretive) as there:

        async def redirect(request: web.Request) -> web.StreamResponse:
            assert request.headers["X-Key"] == "k"
            return web.Response(status=302, headers={"Location": f"{there}/real"})

        async with serving(redirect) as url:
            location = parse_location(f"{url}/m").with_settings(
                {"headers": '{"X-Key": "k", "Authorization": ["a", "b"]}'}
            )
            with await puller.pull(location) as pulled:
                assert pulled.path.read_bytes() == b"content"
                assert pulled.path.name == "m"


async def test_a_loop_of_redirects_ends(puller: Puller) -> None:
    count = []

    async def loop(request: web.Request) -> web.StreamResponse:
        count.append(request.path)
        return web.Response(status=307, headers={"Location": f"/{len(count)}?sig=TOPSECRET"})

    async with serving(loop) as url:
        error = await refused(puller, f"{url}/m")
    assert error.code is Status.FAILED_PRECONDITION
    assert "loop" in str(error)
    assert "TOPSECRET" not in str(error)
    assert len(count) <= 11


@pytest.mark.parametrize("to", ["ftp://host/x", "file:///etc/passwd", "http://["])
async def test_redirects_to_nonsense(puller: Puller, to: str) -> None:
    async def away(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": to})

    async with serving(away) as url:
        error = await refused(puller, f"{url}/m")
    assert error.code in {Status.INVALID_ARGUMENT, Status.UNAVAILABLE}
    assert len(str(error)) < 300


async def test_a_server_that_is_not_there_or_speaks_something_else(puller: Puller) -> None:
    assert (await refused(puller, "http://127.0.0.1:1/m")).code is Status.UNAVAILABLE

    async def garbage(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9\r\n" * 10)
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await refused(puller, f"http://127.0.0.1:{port}/m")).code is Status.UNAVAILABLE
        assert (await refused(puller, f"https://127.0.0.1:{port}/m")).code is Status.UNAVAILABLE


async def test_a_longer_body_than_was_said_is_cut_and_noticed(puller: Puller) -> None:
    async def longer(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Range") == "bytes=0-0":
            return None
        return web.Response(body=BODY + b"more", headers={"ETag": (await files.body(request, BODY)).headers["ETag"]})

    files = Files({"/m": BODY}, ranges=False, faults=[longer])
    async with serving(files) as url:
        error = await refused(puller, f"{url}/m")
    assert error.code is Status.ABORTED


async def test_what_is_sent_compressed_is_refused(puller: Puller) -> None:
    async def packed(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

    async with serving(packed) as url:
        error = await refused(puller, f"{url}/m")
    assert error.code is Status.FAILED_PRECONDITION


@pytest.mark.parametrize(
    "settings",
    [
        {"headers": "TOPSECRET"},
        {"headers": '["TOPSECRET"]'},
        {"headers": '{"a": 1, "b": "TOPSECRET"}'},
        {"headers": '{"a": "TOPSECRET\\r\\nX: y"}'},
        {"certificate": "TOPSECRET"},
        {"client_certificate": "TOPSECRET"},
        {"client_certificate": "TOPSECRET", "client_key": "TOPSECRET"},
    ],
)
async def test_settings_that_cannot_be_used_are_not_shown(puller: Puller, settings: dict[str, str]) -> None:
    """A certificate that cannot be parsed ended the old puller."""
    error = await refused(puller, "http://127.0.0.1:1/m", **settings)
    assert error.code is Status.INVALID_ARGUMENT
    assert "TOPSECRET" not in str(error)


async def test_more_than_the_limit_without_a_length_ends(tmp_path: Path) -> None:
    from conftest import make_puller

    from modelmesh.storage import Limits

    files = Files({"/m": BODY * 4}, ranges=False, lengths=False)
    async with make_puller(tmp_path / "cache", limits=Limits(max_bytes=len(BODY))) as puller, serving(files) as url:
        error = await refused(puller, f"{url}/m")
    assert error.code is Status.RESOURCE_EXHAUSTED


async def test_a_cancelled_pull_leaves_nothing(puller: Puller) -> None:
    arrived = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Range") == "bytes=0-0":
            return None
        arrived.set()
        await asyncio.sleep(3600)
        return None

    files = Files({"/m": BODY}, faults=[hang])
    async with serving(files) as url:
        task = asyncio.ensure_future(puller.pull(parse_location(f"{url}/m")))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await puller.cache.close()
    assert nothing_left(puller.cache)
    assert tree(puller.cache.folder / "trash") == {}
