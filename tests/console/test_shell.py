"""The frame of the console, in a browser."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.console.conftest import Visit

pytestmark = pytest.mark.asyncio(loop_scope="session")  # one browser and one gateway for all
TABS = ("Models", "Try it", "Ask", "Training", "Events")


async def test_a_browser_is_given_the_console_and_nothing_is_said_on_its_console(visit: Visit) -> None:
    page = (await visit.open()).page
    await expect(page.get_by_role("heading", name="Models", level=1)).to_be_visible()
    await expect(page.get_by_role("banner").get_by_text("live", exact=True)).to_be_visible()
    for name in TABS:
        await page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
        await expect(page).to_have_title(f"{name} · Dropgate")
