"""The Events page: what happens is told as it happens, and how the gateway does is drawn."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Route, expect

from tests import making
from tests.console.conftest import PHONE, Chromium, House, Visit
from tests.running import RunningGateway, descendants

pytestmark = pytest.mark.asyncio(loop_scope="session")


def drop(house: House, base: Path, name: str) -> Path:
    """A model on the volume, by a rename."""
    target = house.volume / "finetuned" / name
    Path(making.encoder(base / name, dim=16, layers=1, heads=2)).rename(target)
    return target


@pytest_asyncio.fixture(loop_scope="session")
async def dropped(house: House, gateway: RunningGateway, tmp_path: Path) -> AsyncIterator[Path]:
    target = drop(house, tmp_path, "told")
    await gateway.wait_for("huggingface:finetuned/told", "ready")
    yield target
    already = len(gateway.log)
    shutil.rmtree(target, ignore_errors=True)
    await gateway.wait_for_log("model_removed", after=already, model="finetuned/told")


def lines(page: Any) -> Any:
    return page.get_by_role("list", name="Log").get_by_role("listitem")


async def test_what_happened_before_and_what_happens_now_is_told(
    visit: Visit, house: House, gateway: RunningGateway, dropped: Path, tmp_path: Path
) -> None:
    page = (await visit.open("events")).page
    await expect(lines(page).filter(has_text="finetuned/told").filter(has_text="accepted as").first).to_be_visible()
    broken = drop(house, tmp_path, "broken-drop")
    try:
        await expect(lines(page).filter(has_text="finetuned/broken-drop accepted as")).to_be_visible()
        line = lines(page).filter(has_text="finetuned/broken-drop accepted as").get_by_role("button")
        await line.click()
        await expect(line).to_have_attribute("aria-expanded", "true")
        await expect(lines(page).filter(has_text="finetuned/broken-drop accepted as")).to_contain_text("generation")
    finally:
        shutil.rmtree(broken)
    await expect(lines(page).filter(has_text="finetuned/broken-drop has gone")).to_be_visible()


async def test_what_happens_while_the_stream_connects_is_told(
    visit: Visit, house: House, gateway: RunningGateway, tmp_path: Path
) -> None:
    connects = asyncio.Event()

    async def late(route: Route) -> None:
        await connects.wait()
        await route.continue_()

    await visit.page.route("**/events", late)
    page = (await visit.open("events")).page
    await expect(lines(page).first).to_be_visible()  # the list was asked for already
    between = drop(house, tmp_path, "between")
    try:
        await gateway.wait_for("huggingface:finetuned/between", "ready")
        connects.set()
        await expect(lines(page).filter(has_text="finetuned/between accepted as")).to_be_visible()
    finally:
        shutil.rmtree(between)


async def test_filters_leave_only_what_is_wanted(visit: Visit, dropped: Path) -> None:
    page = (await visit.open("events")).page
    await expect(lines(page).filter(has_text="finetuned/told").first).to_be_visible()
    await page.get_by_label("Kind").select_option("hosts")
    await expect(lines(page).filter(has_text="finetuned/told")).to_have_count(0)
    await expect(lines(page).filter(has_text="host started").first).to_be_visible()
    await page.get_by_label("Kind").select_option("")
    await page.get_by_label("Model or text").fill("no such model at all")
    await expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
    await page.get_by_label("Model or text").fill("TOLD")
    await expect(lines(page).filter(has_text="finetuned/told").first).to_be_visible()
    await expect(lines(page).filter(has_text="host started")).to_have_count(0)
    await page.get_by_label("Severity").select_option("error")
    await expect(lines(page).filter(has_text="accepted as")).to_have_count(0)


async def test_a_log_that_is_paused_stands_still_and_goes_on_where_it_stood(
    visit: Visit, house: House, gateway: RunningGateway, dropped: Path, tmp_path: Path
) -> None:
    page = (await visit.open("events")).page
    await expect(lines(page).filter(has_text="finetuned/told").first).to_be_visible()
    await page.get_by_role("button", name="Pause").click()
    later = drop(house, tmp_path, "later")
    try:
        await expect(page.get_by_role("button", name="Resume (")).to_be_visible()
        await expect(lines(page).filter(has_text="finetuned/later")).to_have_count(0)
        await page.get_by_role("button", name="Resume").click()
        await expect(lines(page).filter(has_text="finetuned/later").first).to_be_visible()
    finally:
        shutil.rmtree(later)


async def test_watcher_hosts_and_charts_are_shown_and_told_in_words(visit: Visit, gateway: RunningGateway) -> None:
    await gateway.embed(["how is a beam stored?"] * 8)
    page = (await visit.open("events")).page
    await expect(page.get_by_text("hears the volume")).to_be_visible()
    await expect(page.get_by_role("progressbar", name="Memory of models on cpu")).to_be_visible()
    for title in ("Requests a second", "Latency", "Tokens waiting", "Texts in a batch"):
        figure = page.locator("figure").filter(has=page.get_by_text(title, exact=True))
        await expect(figure.locator("canvas")).to_be_visible()
        await expect(figure).to_contain_text(f"{title}. ")
    await expect(page.locator("figure").filter(has_text="Latency")).to_contain_text("highest")


async def test_a_host_that_dies_is_told_and_counted(
    house: House, chromium: Chromium, tmp_path_factory: pytest.TempPathFactory, minilm: str
) -> None:
    own = House(tmp_path_factory.mktemp("dying"))
    (own.volume / "finetuned").mkdir(parents=True)
    async with own.gateway() as gateway, chromium.visit(gateway.url) as visit:
        page = (await visit.open("events")).page
        hosts = page.locator("section").filter(has=page.get_by_role("heading", name="Hosts"))
        await expect(hosts.get_by_text("up", exact=True)).to_be_visible()
        started = await gateway.wait_for_log("host_started")
        assert started["pid"] in descendants(gateway.pid)
        os.kill(started["pid"], signal.SIGKILL)
        await expect(lines(page).filter(has_text="host exited").first).to_be_visible()
        await expect(hosts.get_by_text("1 restart")).to_be_visible()
        await expect(hosts.get_by_role("heading", name="Died lately")).to_be_visible()


async def test_on_a_phone_nothing_scrolls_sideways(chromium: Chromium, gateway: RunningGateway, dropped: Path) -> None:
    async with chromium.visit(gateway.url, theme="dark", viewport=PHONE) as visit:
        page = (await visit.open("events")).page
        await expect(lines(page).first).to_be_visible()
        await expect(page.locator("figure canvas").first).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await visit.shot("events-dark-390")
