"""The client with which tests look at a control plane: what it takes for an answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from modelmesh.testing.controlplane.api import Api, ApiError

BUSY = web.HTTPTooManyRequests


@asynccontextmanager
async def server(*refusals: web.HTTPException) -> AsyncIterator[tuple[Api, list[web.HTTPException]]]:
    """A server that gives these refusals, one for each request, and then an object; and those that are left."""
    left = list(refusals)

    async def answer(_request: web.Request) -> web.Response:
        if left:
            raise left.pop(0)
        return web.json_response({"kind": "Namespace"})

    application = web.Application()
    application.router.add_get("/object", answer)
    async with (
        TestServer(application) as started,
        Api(str(started.make_url("")), "", trustme.CA().cert_pem.bytes()) as client,
    ):
        yield client, left


async def test_a_server_that_asks_to_come_later_is_asked_again() -> None:
    """For some seconds after its start it gives 429 for a kind whose list it has not read yet."""
    later = [BUSY(headers={"Retry-After": "0"}, text="storage is (re)initializing") for _ in range(2)]
    async with server(*later) as (client, left):
        assert await client.get("/object") == {"kind": "Namespace"}
        assert not left


async def test_a_refusal_without_a_time_is_an_answer() -> None:
    """So an eviction is refused that a disruption budget forbids."""
    async with server(BUSY(text="no"), BUSY(text="no")) as (client, left):
        with pytest.raises(ApiError, match="no") as caught:
            await client.get("/object")
        assert (caught.value.status, len(left)) == (429, 1)


async def test_who_cannot_wait_so_long_gets_the_refusal() -> None:
    async with server(BUSY(headers={"Retry-After": "60"}, text="later")) as (client, _):
        with pytest.raises(ApiError, match="later"):
            await client.get("/object")
