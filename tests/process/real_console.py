"""The console in a real browser (headless Chromium), at real instances: every view and action, light and dark, 375 and 1280 px, by
keyboard, and with access rules. `make test-console` runs it; screenshots go to `.tools/console/screens`."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Mesh
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from modelmesh._proto import admin_pb2 as admin_pb
from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.instance.local_cluster import LocalCluster
from modelmesh.policy.access import hash_of_key
from modelmesh.testing.scripted_runtime import ScriptedRuntime

SCREENS = Path(__file__).parents[2] / ".tools" / "console" / "screens"
VIEWS = ["", "models", "model/fraud-1", "vmodels", "events", "fit", "try/fraud-1"]
KEY = "mm_a-key-of-this-test"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield chromium
        await chromium.close()


@contextlib.asynccontextmanager
async def cluster(folder: Path, count: int = 2, **environment: str) -> AsyncIterator[Mesh]:
    """Instances with scripted runtimes, whose console is on."""
    folder.mkdir()
    async with contextlib.AsyncExitStack() as stack:
        local = LocalCluster(count, None, folder=folder, environment=environment)
        runtimes = [
            await stack.enter_async_context(ScriptedRuntime(listen=f"unix://{folder}/runtime-{number}.sock"))
            for number in range(1, count + 1)
        ]
        stack.push_async_callback(local.stop)
        await local.start()
        mesh = Mesh(local, runtimes)
        stack.push_async_callback(mesh.close)
        yield mesh


async def set_vmodel(mesh: Mesh, vmodel: str, target: str) -> None:
    request = pb.SetVModelRequest(vModelId=vmodel, targetModelId=target)
    await mesh.call("mmesh.ModelMesh/setVModel", request, pb.VModelStatusInfo)


@contextlib.asynccontextmanager
async def page_at(browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A page on which nothing may fail: no exception, no refusal by the content security policy."""
    context: BrowserContext = await browser.new_context(**options)
    context.set_default_timeout(20_000)
    page = await context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    await context.close()
    assert not wrong


async def overflows(page: Page) -> bool:
    """Whether the page is wider than the window."""
    return bool(await page.evaluate("document.documentElement.scrollWidth > innerWidth"))


async def test_every_view_and_action(tmp_path: Path, browser: Browser) -> None:
    async with cluster(tmp_path / "mesh") as mesh, page_at(browser) as page:
        for model in ("fraud-1", "fraud-2", "risk", "<img src=x onerror=alert(1)>"):
            await mesh.register(model)
        await set_vmodel(mesh, "fraud", "fraud-1")
        url = f"{mesh.cluster.instances[0].rest_url}/console/"
        await page.goto(url)
        await expect(page.locator("#link")).to_contain_text("live")
        await expect(page.locator(".place")).to_have_count(2)
        # models: filter, sort, names that are no markup
        await page.get_by_role("link", name="Models", exact=True).click()
        await expect(page.locator("tbody tr")).to_have_count(4)
        await expect(page.get_by_role("link", name="<img src=x onerror=alert(1)>")).to_be_visible()
        await page.get_by_role("button", name="model", exact=False).first.click()
        await expect(page.locator("th[aria-sort=ascending]")).to_have_count(1)
        await page.get_by_label("Beginning of the id").fill("fraud")
        await expect(page.locator("tbody tr")).to_have_count(2)
        # one model: load, history, dry run, copies, unload
        await page.get_by_role("link", name="fraud-2").click()
        await page.get_by_role("button", name="Load", exact=True).click()
        await expect(page.locator("#main")).to_contain_text("loaded", timeout=20_000)
        await page.get_by_role("button", name="What would one more copy do?").click()
        await expect(page.get_by_label("Dry run")).to_contain_text("One more copy would go")
        await page.get_by_label("least copies").fill("1")
        await page.get_by_role("button", name="Set", exact=True).click()
        await expect(page.locator("#main")).to_contain_text("copies set")
        await page.get_by_label("least copies").fill("0")
        await page.get_by_role("button", name="Set", exact=True).click()
        await page.get_by_role("button", name="Unload").click()
        await expect(page.locator("#main strong").first).to_have_text("not loaded", timeout=20_000)
        # vmodels: move
        await page.get_by_role("link", name="VModels").click()
        await page.get_by_role("button", name="fraud", exact=True).click()
        await page.get_by_label("model", exact=True).fill("fraud-2")
        await page.get_by_role("button", name="Move").click()
        await expect(page.locator("tbody tr").first.locator("td").nth(1)).to_have_text("fraud-2", timeout=20_000)
        await page.get_by_label("model", exact=True).fill("risk")
        await page.get_by_label("percent of the calls").fill("10")
        await page.get_by_role("button", name="Move").click()
        await expect(page.locator("tbody")).to_contain_text("10 % to risk", timeout=20_000)
        # vmodels: versions and fallback, as they are set elsewhere
        labels = admin_pb.SetLabelsRequest(vmodel_id="fraud", labels=[admin_pb.Label(label="test", model_id="risk")])
        await mesh.call("modelmesh.v1.Admin/SetLabels", labels, admin_pb.VModel)
        fallback = admin_pb.SetFallbackRequest(vmodel_id="fraud", model_id="fraud-1")
        await mesh.call("modelmesh.v1.Admin/SetFallback", fallback, admin_pb.VModel)
        await expect(page.locator("tbody")).to_contain_text("test: risk", timeout=20_000)
        await expect(page.locator("tbody")).to_contain_text("while it is cold or fails: fraud-1", timeout=20_000)
        # vmodels: shadow and rollout, and what is counted of them
        shadow = admin_pb.Shadow(model_id="risk", percent=20, compares=True)
        request = admin_pb.SetShadowRequest(vmodel_id="fraud", shadow=shadow)
        await mesh.call("modelmesh.v1.Admin/SetShadow", request, admin_pb.VModel, via=1)
        said = "copies of 20 % to risk, answers are compared"
        await expect(page.locator("tbody")).to_contain_text(said, timeout=20_000)
        plan = admin_pb.Rollout(model_id="fraud-1", steps=[25, 50], minimum_calls=1000, slower_percent=20)
        rollout = admin_pb.SetRolloutRequest(vmodel_id="fraud", plan=plan)
        await mesh.call("modelmesh.v1.Admin/SetRollout", rollout, admin_pb.VModel, via=1)
        await expect(page.locator("tbody")).to_contain_text("rollout of fraud-1: step 1 of 2, 25 %", timeout=20_000)
        await page.get_by_role("button", name="Counts").click()
        await expect(page.get_by_label("Counts")).to_contain_text("1000 of each are compared")
        await expect(page.get_by_label("Counts")).to_contain_text("95 % within")
        ended = admin_pb.SetRolloutRequest(vmodel_id="fraud")
        await mesh.call("modelmesh.v1.Admin/SetRollout", ended, admin_pb.VModel, via=1)
        await expect(page.locator("tbody").first).not_to_contain_text("rollout of", timeout=20_000)
        # events: filter, pause
        await page.get_by_role("link", name="Events").click()
        await page.get_by_label("Filter").fill("copies set")
        await page.get_by_label("Filter").fill("fraud-2")
        await expect(page.locator("tbody")).to_contain_text("fraud-2")
        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
        # dry run of a new model, possible and not
        await page.get_by_role("link", name="Dry run").click()
        await page.get_by_role("button", name="Where would it go?").click()
        await expect(page.locator("#main")).to_contain_text("One more copy would go to")
        await page.get_by_label("size in MiB").fill("100000000")
        await page.get_by_role("button", name="Where would it go?").click()
        await expect(page.locator("#main")).to_contain_text("would go nowhere")
        # a call that the runtime does not know is told in its words
        await page.get_by_role("link", name="Try a call").click()
        await page.get_by_label("model or vmodel").fill("nothing")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_label("The same with curl")).to_contain_text("/v2/models/nothing/infer")
        await expect(page.locator(".said")).to_have_class("said bad")
        # what happens elsewhere shows by itself
        await page.goto(url)
        await expect(page.locator("#link")).to_contain_text("live")
        await mesh.ensure_loaded("risk")
        await expect(page.locator(".place details a", has_text="risk").first).to_be_attached(timeout=20_000)


async def test_looks_and_keyboard(tmp_path: Path, browser: Browser) -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    async with cluster(tmp_path / "mesh") as mesh:
        for number in range(12):
            await mesh.register(f"fraud-{number}")
            await mesh.ensure_loaded(f"fraud-{number}", sync=True)
        await set_vmodel(mesh, "fraud", "fraud-1")
        url = f"{mesh.cluster.instances[0].rest_url}/console/"
        for scheme in ("light", "dark"):
            for width in (375, 1280):
                viewport = {"width": width, "height": 800}
                async with page_at(browser, color_scheme=scheme, viewport=viewport) as page:
                    for view in VIEWS:
                        await page.goto(f"{url}#/{view}")
                        await expect(page.locator("#link")).to_contain_text("live")
                        await expect(page.locator("h1")).to_be_visible()
                        await expect(page.get_by_text(" …", exact=False)).to_have_count(0)
                        assert not await overflows(page), (scheme, width, view)
                        name = view.partition("/")[0] or "instances"
                        await page.screenshot(path=SCREENS / f"{name}-{scheme}-{width}.png", full_page=True)
        async with page_at(browser) as page:
            await page.goto(url)
            await expect(page.locator("#link")).to_contain_text("live")
            await page.keyboard.press("Tab")
            await expect(page.get_by_text("Skip to content")).to_be_focused()
            for name in ("Instances", "Models"):
                await page.keyboard.press("Tab")
                await expect(page.get_by_role("link", name=name, exact=True)).to_be_focused()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="Models")).to_be_visible()
            await expect(page.locator("#main")).to_be_focused()
            await page.keyboard.press("Tab")
            await expect(page.get_by_label("Beginning of the id")).to_be_focused()
            await page.keyboard.type("fraud-11")
            await expect(page.locator("tbody tr")).to_have_count(1)
            for _ in range(7):  # six heads of columns, then the model
                await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="fraud-11")).to_be_visible()


async def test_with_access_rules_the_page_asks_for_a_key_and_shows_what_that_may_see(
    tmp_path: Path, browser: Browser
) -> None:
    rules = {
        "principals": [
            {"name": "setup", "keys": [f"sha256:{hash_of_key('setup')}"]},
            {"name": "reader", "keys": [f"sha256:{hash_of_key(KEY)}"]},
        ],
        "grants": [
            {"to": ["setup"], "verbs": ["register", "load"], "models": ["*"]},
            {"to": ["reader"], "verbs": ["status"], "models": ["fraud-*"]},
        ],
    }
    document = tmp_path / "access.json"
    document.write_text(json.dumps(rules))
    async with cluster(tmp_path / "mesh", 1, MM_ACCESS_PATH=str(document)) as mesh, page_at(browser) as page:
        headers = [("authorization", "Bearer setup")]
        for model in ("fraud-1", "risk"):
            request = pb.RegisterModelRequest(modelId=model, modelInfo=pb.ModelInfo(type="example"))
            await mesh.call("mmesh.ModelMesh/registerModel", request, pb.ModelStatusInfo, metadata=headers)
        await page.goto(f"{mesh.cluster.instances[0].rest_url}/console/#/models")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await page.get_by_label("API key or token").fill(KEY)
        await page.get_by_role("button", name="Use it").click()
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("#link")).to_contain_text("may not ask for the status of all models")
        await page.get_by_role("link", name="fraud-1").click()
        await page.get_by_role("button", name="Unload").click()
        await expect(page.locator(".said")).to_have_text("reader may not load model fraud-1")


async def test_ten_thousand_models_on_two_hundred_instances(tmp_path: Path, browser: Browser) -> None:
    """As such a cluster would be told: what comes over the stream is made up, the page is not."""

    def told(number: int) -> dict[str, Any]:
        instances = [
            {
                "id": f"instance-{place:03}",
                "capacity": 60 << 30,
                "used": 50 << 30,
                "copies": 50,
                "loads": number % 3,
                "queued": 0,
                "wait_ms": 0,
                "state": "serving",
                "zone": f"z{place % 3}",
                "labels": [],
                "models": [[f"model-{place * 50 + model}", (2 << 30) - (number << 20), 1] for model in range(24)],
                "others": [26, 2 << 30],
            }
            for place in range(200)
        ]
        events = [
            {
                "n": number * 100 + event + 1,
                "ms": 1,
                "kind": "loaded",
                "model": f"model-{event}",
                "reason": "",
                "detail": "",
            }
            for event in range(100)
        ]
        empty: dict[str, Any] = {"loads": [], "waiting": [], "held": {"calls": 0, "bytes": 0}, "version": "1"}
        return {"now_ms": 1, "instance": "i", "instances": instances, "events": events, **empty}

    stream = "".join(f"id: {number}\ndata: {json.dumps(told(number))}\n\n" for number in range(5))
    async with cluster(tmp_path / "mesh", 1) as mesh, page_at(browser) as page:
        await page.route(
            "**/console/events",
            lambda route: asyncio.ensure_future(route.fulfill(body=stream, content_type="text/event-stream")),
        )
        await page.goto(f"{mesh.cluster.instances[0].rest_url}/console/")
        await expect(page.locator(".place")).to_have_count(200)
        await expect(page.locator(".place").last.locator("rect")).to_have_count(25)
        await expect(page.locator("dd").nth(2)).to_have_text("10,000")
        await page.get_by_role("link", name="Events").click()
        await expect(page.locator("tbody tr")).to_have_count(100)
