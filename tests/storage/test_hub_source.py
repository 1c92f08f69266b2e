"""Repositories of a Hugging Face hub, whose documented interface the double keeps to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from conftest import make_puller, nothing_left, tree
from doubles import Hub, serving

from modelmesh.storage import Location, Puller, StorageError, parse_location
from modelmesh.values.status import Status

FILES = {
    "config.json": b"{}",
    "README.md": b"words",
    "empty": b"",
    "model.safetensors": b"w" * 300_000,
    "onnx/model.onnx": b"o" * 1000,
    "onnx/data/extra é.bin": b"e",
}


@asynccontextmanager
async def hub(**more: object) -> AsyncIterator[tuple[Hub, str]]:
    double = Hub(
        {"org/repo": {"main": FILES, "v1": {"config.json": b"{1}"}, "refs/pr/1": {"config.json": b"{p}"}}}, **more
    )
    async with serving(double) as elsewhere, serving(double) as url:
        double.elsewhere = elsewhere
        yield double, url


def at(uri: str, url: str, token: str = "") -> Location:
    return parse_location(uri).with_settings({"endpoint_url": url, **({"token": token} if token else {})})


async def test_a_repository_comes_whole_from_pages_and_redirects(puller: Puller) -> None:
    async with hub() as (double, url):
        with await puller.pull(at("hf://org/repo", url)) as pulled:
            assert tree(pulled.path) == FILES
        before = len([request for request in double.requests if "/resolve/" in request.path])
        (await puller.pull(at("hf://org/repo@main", url))).release()
        assert len([request for request in double.requests if "/resolve/" in request.path]) == before


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("hf://org/repo/onnx", {"model.onnx": b"o" * 1000, "data/extra é.bin": b"e"}),
        ("hf://org/repo@v1", {"config.json": b"{1}"}),
        ("hf://org/repo@refs%2Fpr%2F1", {"config.json": b"{p}"}),
    ],
)
async def test_a_folder_and_a_revision(puller: Puller, uri: str, found: dict[str, bytes]) -> None:
    async with hub() as (_, url):
        with await puller.pull(at(uri, url)) as pulled:
            assert tree(pulled.path) == found


@pytest.mark.parametrize("path", ["onnx/model.onnx", "config.json", "onnx/data/extra é.bin"])
async def test_one_file(puller: Puller, path: str) -> None:
    async with hub() as (_, url):
        with await puller.pull(at(f"hf://org/repo/{path}", url)) as pulled:
            assert pulled.path.read_bytes() == FILES[path]
            assert pulled.path.name == path.rpartition("/")[2]


@pytest.mark.parametrize(
    ("uri", "more", "code"),
    [
        ("hf://org/other", {}, Status.NOT_FOUND),
        ("hf://org/repo@v9", {}, Status.NOT_FOUND),
        ("hf://org/repo/nothing", {}, Status.NOT_FOUND),
        ("hf://org/repo", {"token": "hf_right"}, Status.NOT_FOUND),
        ("hf://org/repo", {"token": "hf_right", "gated": True}, Status.PERMISSION_DENIED),
    ],
)
async def test_what_the_hub_refuses(puller: Puller, uri: str, more: dict[str, object], code: Status) -> None:
    async with hub(**more) as (_, url):
        with pytest.raises(StorageError) as error:
            await puller.pull(at(uri, url, "hf_wrong_token"))
    assert error.value.code is code
    assert uri in str(error.value)
    assert "hf_wrong_token" not in str(error.value)


async def test_the_token_of_the_environment_and_of_a_login(tmp_path: Path) -> None:
    async with hub(token="hf_right") as (_, url):
        for environ in ({"HF_TOKEN": "hf_right"}, {"HF_HOME": str(tmp_path)}):
            (tmp_path / "token").write_text("hf_right\n")
            async with make_puller(tmp_path / "cache", environ={**environ, "HF_ENDPOINT": url}) as puller:
                with await puller.pull(parse_location("hf://org/repo/config.json")) as pulled:
                    assert pulled.path.read_bytes() == b"{}"


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
async def test_what_arrives_is_compared_with_its_digest(puller: Puller, path: str) -> None:
    def tamper(known: str, content: bytes) -> bytes:
        return content[:-1] + b"?" if known == path else content

    async with hub(tamper=tamper) as (_, url):
        with pytest.raises(StorageError, match="does not match its store") as error:
            await puller.pull(at("hf://org/repo", url))
    await puller.cache.close()
    assert error.value.code is Status.DATA_LOSS
    assert nothing_left(puller.cache)


@pytest.mark.parametrize(
    "answers",
    [
        ["no json"],
        ["[]"],
        ['{"sha": 1}'],
        ['{"sha": "../x"}'],
        ['{"sha": "abc"}', "{}"],
        ['{"sha": "abc"}', "[1]"],
        ['{"sha": "abc"}', '[{"type": "file", "path": "a"}]'],
        ['{"sha": "abc"}', '[{"type": "file", "path": "../a", "oid": "1", "size": 1}]'],
        ['{"sha": "abc"}', '[{"type": "file", "path": "/etc/passwd", "oid": "1", "size": 1}]'],
        ['{"sha": "abc"}', '[{"type": "file", "path": "a", "oid": "1", "size": -1}]'],
        ['{"sha": "abc"}', '[{"type": "file", "path": "a", "oid": "1", "size": 1e9}]'],
        ['{"sha": "abc"}', "[" * 10_000],
    ],
)
async def test_a_hub_that_answers_nonsense(puller: Puller, answers: list[str]) -> None:
    async def nonsense(request: web.Request) -> web.StreamResponse:
        return web.Response(text=answers[0 if "/revision/" in request.path else -1])

    async with serving(nonsense) as url:
        with pytest.raises(StorageError) as error:
            await puller.pull(at("hf://org/repo", url))
    assert error.value.code in {Status.UNAVAILABLE, Status.INVALID_ARGUMENT}


async def test_pages_without_end_end(puller: Puller) -> None:
    count = []

    async def endless(request: web.Request) -> web.StreamResponse:
        if "/revision/" in request.path:
            return web.json_response({"sha": "abc"})
        count.append(1)
        return web.json_response([], headers={"Link": f'<{request.url}>; rel="next"'})

    async with serving(endless) as url:
        with pytest.raises(StorageError) as error:
            await puller.pull(at("hf://org/repo", url))
    assert error.value.code is Status.RESOURCE_EXHAUSTED
    assert len(count) < 100


async def test_the_next_page_is_of_the_same_hub(puller: Puller) -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        if "/revision/" in request.path:
            return web.json_response({"sha": "abc"})
        return web.json_response([], headers={"Link": '<http://127.0.0.1:1/steal>; rel="next"'})

    async with serving(away) as url:
        with pytest.raises(StorageError, match="is none that a hub gives"):
            await puller.pull(at("hf://org/repo", url, "hf_token"))
