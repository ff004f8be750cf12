"""The frame of the console, in a browser: tabs, themes, keys, and a connection that comes and goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests import making, ports
from tests.console import axe
from tests.console.conftest import MODEL, PHONE, WIDE, Chromium, House, Visit
from tests.running import DEADLINE, RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")  # one browser and one gateway for all
TABS = {"models": "Models", "try": "Try it", "ask": "Ask", "training": "Training", "events": "Events"}
MANY = 1000


async def test_a_browser_is_given_the_console_and_nothing_is_said_on_its_console(visit: Visit) -> None:
    page = (await visit.open()).page
    await expect(page.get_by_role("heading", name="Models", level=1)).to_be_visible()
    await expect(page.get_by_role("banner").get_by_text("live", exact=True)).to_be_visible()
    for name in TABS.values():
        await page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
        await expect(page).to_have_title(f"{name} · Dropgate")
        await expect(page.get_by_role("heading").first).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_no_tab_has_a_serious_finding_of_axe_nor_scrolls_sideways_on_a_phone(
    chromium: Chromium, gateway: RunningGateway, theme: str
) -> None:
    async with chromium.visit(gateway.url, theme=theme) as visit:
        await visit.open()
        for tab in TABS:
            await visit.open(tab)
            await expect(visit.page.get_by_role("heading").first).to_be_visible()
            if tab == "models":
                await visit.page.locator("button.name").first.click()
            assert await axe.findings(visit.page) == [], tab
            await visit.shot(f"{tab}-{theme}-wide")
            await visit.page.set_viewport_size(PHONE)
            fits = f"document.scrollingElement.scrollWidth <= {PHONE['width']}"
            await visit.page.wait_for_function(fits)  # what is drawn follows the size in its own time
            await visit.shot(f"{tab}-{theme}-phone")
            await visit.page.set_viewport_size(WIDE)


async def test_the_theme_is_chosen_and_kept(visit: Visit) -> None:
    page = (await visit.open()).page
    background = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(background)
    await page.get_by_role("button", name="Theme: auto").click()
    await page.get_by_role("button", name="Theme: light").click()
    dark = await page.evaluate(background)
    assert dark != light
    await page.reload()
    assert await page.evaluate(background) == dark
    await page.get_by_role("button", name="Theme: dark").click()
    for scheme, shown in (("dark", dark), ("light", light)):  # and from now on it is the system's
        await page.emulate_media(color_scheme=scheme)
        await expect(page.locator("body")).to_have_css("background-color", shown)


async def test_the_page_connects_again_by_itself_when_the_gateway_was_away(chromium: Chromium, tmp_path: Path) -> None:
    house = House(tmp_path)
    making.encoder(house.volume / "finetuned" / "before", seed=31)
    with ports.reserved() as held:
        await connects_again(chromium, house, ports.number(held))


async def connects_again(chromium: Chromium, house: House, port: int) -> None:
    async with house.gateway(f"--port={port}") as first:
        visit_of = chromium.visit(first.url)
        visit = await visit_of.__aenter__()
        page = (await visit.open()).page
        await expect(page.locator("li.model")).to_have_count(1)
        await page.evaluate("window.still = true")
    visit.expect_failures("ERR_CONNECTION_(REFUSED|RESET|CLOSED)|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE|503")
    await expect(page.get_by_role("banner").get_by_text("no connection")).to_be_visible()
    await expect(page.locator("li.model")).to_have_count(1)  # what was known stays to be read
    making.encoder(house.volume / "finetuned" / "meanwhile", seed=32)
    async with house.gateway(f"--port={port}"):
        await expect(page.get_by_role("banner").get_by_text("live", exact=True)).to_be_visible()
        await expect(page.locator("li.model")).to_have_count(2)
        assert await page.evaluate("window.still") is True
        await visit_of.__aexit__(None, None, None)


async def test_a_gateway_with_keys_asks_for_one_and_shows_what_it_may_see(chromium: Chromium, tmp_path: Path) -> None:
    house = House(tmp_path)
    making.encoder(house.volume / "team" / "mine", seed=33)
    making.encoder(house.volume / "other" / "theirs", seed=34)
    command = [sys.executable, "-m", "gateway", "keys", "create", "reader", "--role=use", "--namespaces=team"]
    command += [f"--state-dir={house.state}"]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE, env=os.environ)
    assert made.returncode == 0, made.stderr
    running = house.gateway()
    running.headers = {"X-API-Key": made.stdout.strip()}
    async with running as gateway, chromium.visit(gateway.url) as visit:
        visit.expect_failures("401")
        page = (await visit.open()).page
        dialog = page.get_by_role("dialog")
        await dialog.get_by_label("Key").fill("dg_wrong")
        await dialog.get_by_role("button", name="Use this key").click()
        await expect(page.get_by_role("alert")).to_contain_text("this key is none")
        await visit.shot("key")
        await page.get_by_role("dialog").get_by_label("Key").fill(made.stdout.strip())
        await page.get_by_role("dialog").get_by_role("button", name="Use this key").click()
        await expect(page.locator("li.model")).to_have_count(1)
        await expect(page.locator("li.model")).to_have_attribute("data-id", "huggingface:team/mine")
        await expect(page.get_by_role("button", name="reader · use")).to_be_visible()
        load = page.get_by_role("button", name="Load team/mine", exact=True)
        await expect(load).to_have_attribute("aria-disabled", "true")
        assert "theirs" not in await page.content()
        assert await page.evaluate("localStorage.length") == 0
        await page.reload()
        await expect(page.locator("li.model")).to_have_count(1)  # for as long as the tab is open
        async with chromium.visit(gateway.url) as other:
            other.expect_failures("401")
            await other.open()
            await expect(other.page.get_by_role("dialog")).to_be_visible()  # and in no other


async def test_a_thousand_models_are_listed_and_found(chromium: Chromium, tmp_path: Path) -> None:
    house = House(tmp_path)
    for number in range(MANY):
        folder = house.volume / "many" / f"model-{number:04d}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{")
    making.encoder(house.volume / "many" / "whole", seed=35)
    async with house.gateway() as gateway, chromium.visit(gateway.url) as visit:
        await gateway.wait_for("huggingface:many/whole", "ready")
        await gateway.wait_for(f"huggingface:many/model-{MANY - 1:04d}", "rejected")
        page = (await visit.open()).page
        await expect(page.get_by_role("button", name="All 1,001")).to_be_visible()
        assert await page.locator("li.model").count() < 200
        await page.get_by_role("button", name="Show more").scroll_into_view_if_needed()
        await page.get_by_label("Search models").fill("0998")
        await expect(page.locator("li.model")).to_have_count(1)
        await page.get_by_label("Search models").fill("whole")
        await page.get_by_role("button", name="Load many/whole", exact=True).click()
        await expect(page.locator('li.model .badge[data-state="loaded"]')).to_be_visible()
        await visit.shot("many")


async def test_a_page_that_cannot_be_loaded_is_told_and_the_others_go_on(visit: Visit) -> None:
    visit.expect_failures("ERR_FAILED|Failed to fetch dynamically")
    page = (await visit.open()).page
    await page.route("**/console/training.js", lambda route: route.abort())
    await page.get_by_role("link", name="Training").click()
    await expect(page.get_by_role("log")).to_contain_text("this page could not be loaded")
    await page.get_by_role("link", name="Models").click()
    await expect(page.locator("li.model").filter(has_text=MODEL)).to_be_visible()
