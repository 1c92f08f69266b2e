"""The console as it is served: its files, its rules for browsers, what it asks and is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from scripted import WAIT, Instance, serve_calls

from modelmesh._proto import console_pb2 as pb
from modelmesh.adapters.clock import SystemClock
from modelmesh.adapters.credentials import KeySets
from modelmesh.control.tasks import Tasks
from modelmesh.management.access import Access
from modelmesh.management.calls import Call, CallError, CallServer, Method
from modelmesh.values.dataplane import DataPlaneEvent, Rules
from modelmesh.values.status import Status

Make = Callable[..., Instance]
PAGES = 16


class Answers:
    """An instance that answers what the console asks."""

    def __init__(self, one: Instance) -> None:
        self.since: list[int] = []
        self.asked: list[tuple[str, str]] = []
        self.refuse: CallError | None = None
        clock, tasks = SystemClock(), Tasks(lambda *_: None)
        self.server = CallServer(
            dataplane=one.plane,
            tasks=tasks,
            methods={
                "modelmesh.v1.Console/Ask": Method(pb.AskRequest, self._ask),
                "modelmesh.v1.Console/Look": Method(pb.LookRequest, self._look),
            },
            access=Access(dataplane=one.plane, clock=clock, tasks=tasks, keys=KeySets(clock).keys),
            failed=lambda *_: None,
        )
        one.brain.decide = self._decide
        one.plane.set_rules(Rules(serving_services=("modelmesh.v1.Console",), peer_services=()))

    async def _ask(self, _: Call, request: pb.AskRequest) -> pb.AskResponse:
        self.asked.append((request.method, request.json))
        return pb.AskResponse(json='{"models":[]}')

    async def _look(self, _: Call, request: pb.LookRequest) -> pb.LookResponse:
        self.since.append(request.since)
        if self.refuse is not None:
            raise self.refuse
        return pb.LookResponse(last=request.since + 1, json=json.dumps({"events": [request.since + 1]}))

    def _decide(self, event: DataPlaneEvent) -> None:
        serve_calls(self.server, event)


@pytest.fixture
async def session(make: Make) -> AsyncIterator[tuple[aiohttp.ClientSession, Answers]]:
    one = make(rest="127.0.0.1:0", console=True)
    answers = Answers(one)
    timeout = aiohttp.ClientTimeout(WAIT)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{one.plane.rest_port}", timeout=timeout) as session:
        yield session, answers


Session = tuple[aiohttp.ClientSession, Answers]


async def test_the_page_to_try_calls_is_served_without_the_console(make: Make) -> None:
    one = make(rest="127.0.0.1:0")
    async with aiohttp.ClientSession(f"http://127.0.0.1:{one.plane.rest_port}") as web:
        for path, accept, status in [("/docs", "*/*", 308), ("/", "text/html,application/xhtml+xml,*/*;q=0.8", 307)]:
            async with web.get(path, headers={"Accept": accept}, allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (status, "docs/")
        kinds = {"": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
        total = 0
        for name, kind in kinds.items():
            async with web.get(f"/docs/{name}", headers={"Accept-Encoding": "gzip"}) as answer:
                total += int(answer.headers["Content-Length"])
                assert (answer.status, answer.content_type) == (200, kind)
                policy = answer.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'; ")
                assert "unsafe" not in policy
                assert "frame-ancestors 'none'" in policy
                assert "http://" not in (text := await answer.text()).replace("http://www.w3.org", "")
                assert "https://" not in text, "nothing comes from elsewhere"
        assert total < 8_000
        for method, path, status in [("GET", "/docs/x", 404), ("GET", "/docsx", 404), ("POST", "/docs/", 405)]:
            async with web.request(method, path) as answer:
                assert answer.status == status, path
        async with web.get("/docs/", headers={"Origin": "http://other.example"}) as answer:
            assert answer.status == 403


async def test_its_files_and_what_a_browser_may_do_with_them(session: Session) -> None:
    web, _ = session
    kinds = {"": "text/html", "app.js": "text/javascript", "views.js": "text/javascript", "style.css": "text/css"}
    total = 0
    for name, kind in {**kinds, "icon.svg": "image/svg+xml"}.items():
        async with web.get(f"/console/{name}") as answer:
            total += int(answer.headers["Content-Length"])
            assert (answer.status, answer.content_type) == (200, kind)
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert total < 40_000, "compressed"
    async with web.get("/console", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (308, "console/")
    async with web.head("/console/app.js") as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    for path in ("/console/x", "/consolex", "/console/app.js/"):
        async with web.get(path) as answer:
            assert answer.status == 404, path
    async with web.delete("/console/") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


async def test_it_is_off_unless_asked_for(make: Make) -> None:
    one = make(rest="127.0.0.1:0")
    async with aiohttp.ClientSession(f"http://127.0.0.1:{one.plane.rest_port}") as web:
        for path in ("/console/", "/console/events"):
            async with web.get(path) as answer:
                assert answer.status == 404


async def test_what_a_page_asks_is_a_call_and_other_pages_may_not(session: Session) -> None:
    web, answers = session
    async with web.post("/console/ask/ListModels", json={"page_size": 5}) as answer:
        assert (answer.status, await answer.json()) == (200, {"models": []})
    assert answers.asked == [("ListModels", '{"page_size": 5}')]
    for headers, body, status in [
        ({"Origin": "https://evil.example.org"}, b"{}", 403),
        ({}, b"x" * 100_000, 413),
        ({}, b"\xff", 400),
    ]:
        async with web.post("/console/ask/ListModels", data=body, headers=headers) as answer:
            assert answer.status == status
    assert len(answers.asked) == 1


async def event(stream: aiohttp.StreamReader) -> dict[str, str]:
    async with asyncio.timeout(WAIT):
        text = (await stream.readuntil(b"\n\n")).decode()
    return dict(line.split(": ", 1) for line in text.strip().splitlines())


async def test_a_page_is_told_what_happens_and_goes_on_where_it_was(session: Session) -> None:
    web, answers = session
    async with web.get("/console/events", headers={"Last-Event-ID": "41"}) as answer:
        assert answer.content_type == "text/event-stream"
        assert await event(answer.content) == {"id": "42", "data": '{"events": [42]}'}
        assert await event(answer.content) == {"id": "43", "data": '{"events": [43]}'}
        answers.refuse = CallError(Status.PERMISSION_DENIED, "no more")
        assert await event(answer.content) == {"event": "fault", "data": '{"error":"no more"}'}
        assert await answer.content.read() == b""
    assert answers.since[:2] == [41, 42]
    async with web.get("/console/events", headers={"Last-Event-ID": "x"}) as answer:
        assert (answer.status, await answer.json()) == (403, {"error": "no more"})


async def test_so_many_pages_are_told_and_a_place_comes_free(session: Session) -> None:
    web, _ = session
    open_pages: list[Any] = [await web.get("/console/events") for _ in range(PAGES)]
    assert [page.status for page in open_pages] == [200] * PAGES
    async with web.get("/console/events") as answer:
        assert answer.status == 429
    open_pages[0].close()
    async with asyncio.timeout(WAIT):
        while True:
            again = await web.get("/console/events")
            if again.status == 200:
                break
            again.close()
            await asyncio.sleep(0.01)
    for page in (*open_pages, again):
        page.close()
