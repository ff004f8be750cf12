"""A browser, a gateway with the real model, and a page of the console. A test fails if its page says anything on its
console, asks another host, or is answered with a failure that the test did not expect."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import pytest
import pytest_asyncio

from tests.running import DEADLINE, RunningGateway
from trainer.exchange import put_in_place

CHROMIUM: Final = shutil.which("chromium") or "/usr/bin/chromium"
WIDE: Final = {"width": 1280, "height": 800}
PHONE: Final = {"width": 390, "height": 844}
PATIENCE: Final = 300_000  # milliseconds; only ends a test that hangs
MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"
SHOTS: Final = os.environ.get("CONSOLE_SHOTS", "")  # a folder for pictures, if somebody wants to look


class Visit:
    """A page of the console, and what was seen of it. `expect` takes failures that a test means to cause."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.wrong: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrong.append(f"page error: {error}"))
        page.on("request", self._asked)
        page.on("response", self._answered)

    def expect_failures(self, pattern: str) -> None:
        """Of what is told of the page, all that matches is meant to happen."""
        self._expected.append(re.compile(pattern))

    async def open(self, tab: str = "models") -> Self:
        await self.page.goto(f"{self.url}/#{tab}")
        return self

    async def shot(self, name: str) -> None:
        if SHOTS:
            await self.page.screenshot(path=f"{SHOTS}/{name}.png")

    def check(self) -> None:
        left = [each for each in self.wrong if not any(pattern.search(each) for pattern in self._expected)]
        assert left == []

    def _said(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.wrong.append(f"console: {message.text}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url + "/", "data:", "blob:")):
            self.wrong.append(f"foreign request: {request.url}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.wrong.append(f"response: {response.status} {response.request.method} {response.url}")


class Chromium:
    """Pages, each with a context of its own: storage and focus are nobody else's."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    @asynccontextmanager
    async def visit(self, url: str, *, theme: str = "light", **options: Any) -> AsyncIterator[Visit]:
        context = await self._browser.new_context(color_scheme=theme, **{"viewport": WIDE, **options})
        context.set_default_timeout(PATIENCE)
        try:
            visit = Visit(await context.new_page(), url)
            yield visit
            visit.check()
        finally:
            await context.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Chromium]:
    api = pytest.importorskip("playwright.async_api", reason="playwright is in the extra `dev`")
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip("these tests drive Debian's chromium, and there is none")
    api.expect.set_options(timeout=PATIENCE)
    async with api.async_playwright() as playwright:
        # a container has neither a sandbox for the browser's processes nor much shared memory
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        try:
            yield Chromium(browser)
        finally:
            await browser.close()


class House:
    """A volume, a state directory, and the gateway that serves it."""

    def __init__(self, base: Path) -> None:
        self.volume = base / "models"
        self.state = base / "state"

    def gateway(self, *options: str) -> RunningGateway:
        # a slow machine is no fault: whatever is asked for comes at last
        settings = ["--device=cpu", f"--default-model={MODEL}", f"--request-timeout={DEADLINE}", *options]
        return RunningGateway(self.volume, self.state, *settings)


def drop(source: Path, target: Path) -> None:
    """By a rename, as `gateway pull` and careful people do it, or by an exchange: what is replaced is never away, and
    a gateway that looks meanwhile does not take it for gone."""
    hidden = target.with_name(f".{target.name}.incoming")
    shutil.copytree(source, hidden)
    if put_in_place(hidden, target, replace=True):
        shutil.rmtree(hidden)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> House:
    found = House(tmp_path_factory.mktemp("console"))
    (found.volume / "finetuned").mkdir(parents=True)
    shutil.copytree(minilm, found.volume / MODEL)
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(house: House, chromium: Chromium) -> AsyncIterator[RunningGateway]:
    async with house.gateway() as running:
        await running.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
        yield running


Open = Callable[..., Awaitable[Visit]]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(chromium: Chromium, gateway: RunningGateway) -> AsyncIterator[Visit]:
    """A page of the session's gateway, not yet opened."""
    async with chromium.visit(gateway.url) as found:
        yield found
