"""The console behind a proxy: below a path, and of one gateway for as long as it is looked at, though there are two."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import expect

from tests import making
from tests.console.conftest import Chromium, House
from tests.console.test_models import badge
from tests.proxy.haproxy import RunningProxy, needs_haproxy
from tests.running import RunningGateway

pytestmark = [needs_haproxy, pytest.mark.asyncio(loop_scope="session")]
NAMES = ["m0", "m1", "m2", "m3"]


async def test_the_console_works_below_a_path_and_stays_with_one_gateway(chromium: Chromium, tmp_path: Path) -> None:
    volume = tmp_path / "models"
    for seed, name in enumerate(NAMES):
        making.encoder(volume / "finetuned" / name, seed=seed)
    houses = [House(tmp_path / str(number)) for number in (1, 2)]
    for house in houses:
        house.volume = volume
    async with (
        houses[0].gateway() as first,
        houses[1].gateway() as second,
        RunningProxy(tmp_path / "proxy", [first.url, second.url]) as proxy,
    ):
        await proxy.until_up("gateway-1", "gateway-2")
        async with chromium.visit(f"{proxy.url}/dropgate") as visit:
            page = (await visit.open()).page
            await expect(page.get_by_role("banner").get_by_text("live", exact=True)).to_be_visible()
            await expect(page.locator("li.model")).to_have_count(len(NAMES))
            (cookie,) = await page.context.cookies()
            shown, other = (first, second) if cookie["value"] == "gateway-1" else (second, first)
            for name in NAMES:  # wherever the proxy would send other clients of these models
                await page.get_by_role("button", name=f"Load finetuned/{name}", exact=True).click()
                await expect(badge(page, f"finetuned/{name}", "loaded")).to_be_visible()
            await page.get_by_role("navigation", name="Pages").get_by_role("link", name="Try it").click()
            await page.get_by_label("Model", exact=True).select_option("huggingface:finetuned/m1")
            await page.get_by_label("Texts, one a line").fill("a beam\na laser")
            await page.get_by_role("button", name="Embed").click()
            await expect(page.locator("pre.code").first).to_contain_text(f"{proxy.url}/dropgate/embed")
        assert {each["state"] for each in (await shown.models()).values()} == {"loaded"}
        assert {each["state"] for each in (await other.models()).values()} == {"ready"}


async def test_a_redirect_and_the_place_of_a_pull_lead_below_the_path_too(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    nobody = "--hub-endpoint=http://127.0.0.1:9"  # the pull fails later, and its place is told at once
    online = {"HF_HUB_OFFLINE": "0", "HF_TOKEN": ""}
    async with (
        RunningGateway(tmp_path / "models", tmp_path / "state", "--device=cpu", nobody, environment=online) as gateway,
        RunningProxy(tmp_path / "proxy", [gateway.url]) as proxy,
    ):
        await proxy.until_up("gateway-1")
        async with proxy.session.get("/dropgate", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (308, "/dropgate/")
        for below in ("", "/dropgate"):
            async with proxy.session.post(f"{below}/models/pull", json={"model": "intfloat/e5"}) as answer:
                assert answer.status == 202, await answer.text()
                assert answer.headers["Location"] == f"{below}/models/pulls/intfloat/e5"
            async with proxy.session.get(answer.headers["Location"]) as answer:
                assert answer.status == 200
            for page in ("docs", "docs/docs.js", "openapi.json", "console/app.js"):
                async with proxy.session.get(f"{below}/{page}") as answer:
                    assert answer.status == 200
                    assert "Set-Cookie" not in answer.headers
