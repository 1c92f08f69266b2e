"""The page to try REST calls in a real browser (headless Chromium), at a real instance. `make test-console` runs it."""

import json
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, expect
from real_console import SCREENS, browser, cluster, overflows, page_at  # noqa: F401 - a fixture

from modelmesh.policy.access import hash_of_key

KEY = "mm_a-key-of-this-test"
RULES = {
    "principals": [
        {"name": "reader", "keys": [f"sha256:{hash_of_key(KEY)}"]},
        {"name": "setup", "anonymous": True},
    ],
    "grants": [
        {"to": ["reader"], "verbs": ["status"], "models": ["*"], "vmodels": ["*"]},
        {"to": ["setup"], "verbs": ["register"], "models": ["fraud-1"]},
    ],
}


async def opened(page: Page, call: str) -> Any:
    """The form of a call."""
    item = page.locator("details").filter(has=page.locator("summary code", has_text=call)).first
    await item.locator("summary").click()
    return item


async def test_calls_are_made_from_their_description(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    async with cluster(tmp_path / "mesh", 1) as mesh, page_at(browser) as page:
        await mesh.register("fraud-1")
        url = mesh.cluster.instances[0].rest_url
        await page.goto(url)  # a browser that asks for the root is sent there
        await expect(page).to_have_url(f"{url}/docs/")
        described = await (await page.request.get(f"{url}/openapi.json")).json()
        await expect(page.locator("details")).to_have_count(sum(len(one) for one in described["paths"].values()))
        # One without fields, and one with a query.
        item = await opened(page, "GET /v2/models")
        await item.get_by_label("limit (query)").fill("1")
        await item.get_by_role("button", name="Send").click()
        await expect(item.get_by_role("status")).to_contain_text("200")
        await expect(item.get_by_label("answer")).to_contain_text("fraud-1")
        await expect(item.get_by_label("the same with curl")).to_have_text(f"curl '{url}/v2/models?limit=1'")
        # A path, whose name has everything that must be quoted; the refusal is shown as text.
        item = await opened(page, "GET /v2/models/{name}/ready")
        await item.get_by_label("name (path)").fill("<b>a/b?'")
        await item.get_by_role("button", name="Send").click()
        await expect(item.get_by_role("status")).to_contain_text("404")
        await expect(item.get_by_label("answer")).to_contain_text("<b>a/b?'")
        assert await page.locator("pre b").count() == 0
        # A body, which begins as the example of its schema.
        item = await opened(page, "POST /v2/models/{name}/infer")
        body = item.get_by_label("body")
        assert json.loads(await body.input_value())["inputs"][0]["datatype"] == "FP32"
        await item.get_by_label("name (path)").fill("fraud-1")
        await body.fill("{}")
        await item.get_by_role("button", name="Send").click()
        await expect(item.get_by_role("status")).to_contain_text("400")
        await expect(item.get_by_label("answer")).to_contain_text("no inputs")
        # An empty path field is not sent.
        item = await opened(page, "POST /v2/repository/models/{name}/load")
        await item.get_by_role("button", name="Send").click()
        await expect(item.get_by_role("status")).to_have_text("")
        await item.get_by_label("name (path)").fill("fraud-1")
        await item.get_by_role("button", name="Send").click()
        await expect(item.get_by_role("status")).to_contain_text("200", timeout=20_000)


async def test_light_dark_narrow_and_by_keyboard(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    SCREENS.mkdir(parents=True, exist_ok=True)
    async with cluster(tmp_path / "mesh", 1) as mesh:
        url = f"{mesh.cluster.instances[0].rest_url}/docs/"
        for scheme in ("light", "dark"):
            for width in (375, 1280):
                options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
                async with page_at(browser, **options) as page:
                    await page.goto(url)
                    await opened(page, "POST /v2/models/{name}/infer")
                    assert not await overflows(page), (scheme, width)
                    await page.screenshot(path=SCREENS / f"docs-{scheme}-{width}.png")
        async with page_at(browser) as page:
            await page.goto(url)
            await page.locator("summary", has_text="GET /v2/health/live").focus()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("button", name="Send")).to_be_visible()
            await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            await expect(page.get_by_label("answer").first).to_contain_text('"live": true')


async def test_a_key_is_sent_and_kept_until_the_tab_is_closed(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    rules = tmp_path / "access.json"
    rules.write_text(json.dumps(RULES))
    async with cluster(tmp_path / "mesh", 1, MM_ACCESS_PATH=str(rules)) as mesh, page_at(browser) as page:
        await mesh.register("fraud-1")
        await page.goto(f"{mesh.cluster.instances[0].rest_url}/docs/")
        for _ in range(2):
            item = await opened(page, "GET /v2/models")
            await item.get_by_role("button", name="Send").click()
            shown = item.get_by_label("answer")
            if await page.locator("#key").input_value():
                await expect(shown).to_contain_text("fraud-1")
                curl = item.get_by_label("the same with curl")
                await expect(curl).to_contain_text("authorization: Bearer …")
                await expect(curl).not_to_contain_text(KEY)
            else:
                await expect(item.get_by_role("status")).to_contain_text("200")
                await page.locator("#key").fill(KEY)
                await page.locator("#key").press("Tab")
                await page.reload()
                assert await page.locator("#key").input_value() == KEY
