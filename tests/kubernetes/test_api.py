"""The API server in memory, and the client over HTTP to it, keep the same contract; and what only the client has."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import api_contract

from modelmesh.adapters.clock import SystemClock
from modelmesh.kubernetes.adapters.api import Access, HttpApi, in_cluster
from modelmesh.kubernetes.kinds import CONFIG_MAP, NAMESPACE, Key
from modelmesh.kubernetes.ports import Api, ApiError, Scope
from modelmesh.testing.kubernetes import MemoryApi
from modelmesh.testing.kubernetes_http import serve_api


@asynccontextmanager
async def opened(how: str) -> AsyncIterator[tuple[Api, MemoryApi]]:
    memory = MemoryApi(SystemClock())
    memory.absent.add("ServiceMonitor")
    memory.put(NAMESPACE, {"metadata": {"name": api_contract.NAMESPACE}})
    if how == "memory":
        yield memory, memory
        return
    async with serve_api(memory) as url, HttpApi(Access(url)) as api:
        yield api, memory


@pytest.mark.parametrize("how", ["memory", "http"])
@pytest.mark.parametrize("case", api_contract.CASES, ids=lambda case: case.__name__)
async def test_the_contract(case, how: str) -> None:
    async with opened(how) as (api, _):
        await case(api)


@pytest.mark.parametrize("how", ["memory", "http"])
async def test_a_revision_that_is_no_longer_kept_is_gone(how: str) -> None:
    async with opened(how) as (api, memory):

        async def compact() -> None:
            memory.compact()

        await api_contract.a_revision_that_is_no_longer_kept_is_gone(api, compact)


async def test_a_watch_that_breaks_and_a_server_that_is_away_are_errors_without_a_code() -> None:
    memory = MemoryApi(SystemClock())
    async with HttpApi(Access("http://127.0.0.1:1")) as api:
        with pytest.raises(ApiError) as caught:
            await api.read(CONFIG_MAP, Key("ns", "a"))
        assert caught.value.code == 0
    async with serve_api(memory) as url, HttpApi(Access(url)) as api:
        events = api.watch(CONFIG_MAP, Scope(), revision="0")
        memory.put(CONFIG_MAP, {"metadata": {"name": "a", "namespace": "ns"}})
        await anext(events)
        memory.cut_watches()
        with pytest.raises(ApiError) as caught:
            await anext(events)
        assert caught.value.code == 0


async def test_what_the_server_says_of_a_refusal_is_kept() -> None:
    async with opened("http") as (api, memory):
        memory.refuse = lambda _: ApiError(429, "too many", retry_after_s=7)
        with pytest.raises(ApiError, match="too many") as caught:
            await api.read(CONFIG_MAP, Key("ns", "a"))
        assert (caught.value.code, caught.value.retry_after_s) == (429, 7)


async def test_a_token_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    api = HttpApi(Access("http://x", token))
    assert api._headers()["Authorization"] == "Bearer first"
    newer = tmp_path / "newer"
    newer.write_text("second")
    newer.rename(token)
    assert api._headers()["Authorization"] == "Bearer second"


def test_the_access_of_a_pod() -> None:
    found = in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, Path("/account"))
    assert found == Access("https://[fd00::1]:6443", Path("/account/token"), Path("/account/ca.crt"))
    with pytest.raises(ValueError, match="--server"):
        in_cluster({})
