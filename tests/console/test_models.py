"""The Models page, in a browser, on the real gateway."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from tests import making
from tests.console.conftest import MODEL, House, Visit, drop
from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")
HOSTILE = '<img src=x onerror="window.hacked = true">'


def row(page: Any, model: str) -> Any:
    return page.locator(f'li.model[data-id="huggingface:{model}"]')


def badge(page: Any, model: str, state: str) -> Any:
    return row(page, model).locator(f'.line .badge[data-state="{state}"]')


async def listen(page: Any) -> None:
    """Keeps in `window.messages` what the page's messages say: those of a success go after some seconds."""
    await page.evaluate("""() => { const log = document.querySelector("[role=log]"); window.messages = "";
        const watch = new MutationObserver(() => { window.messages += log.textContent; });
        watch.observe(log, {childList: true, subtree: true}); }""")


async def opened(page: Any, model: str) -> Any:
    """The row of a model, with all about it."""
    await row(page, model).get_by_role("button", expanded=False).first.click()
    await expect(row(page, model).locator(".detail")).to_be_visible()
    return row(page, model)


async def test_a_dropped_directory_appears_without_a_reload_and_a_broken_one_says_why_and_heals(
    visit: Visit, house: House, tmp_path: Path
) -> None:
    page = (await visit.open()).page
    await expect(badge(page, MODEL, "ready").or_(badge(page, MODEL, "loaded"))).to_be_visible()
    await page.evaluate("window.still = true")
    made = Path(making.encoder(tmp_path / "made", seed=11))
    weights = made / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    target = house.volume / "finetuned" / "dropped"
    shutil.copytree(made, target)
    await expect(badge(page, "finetuned/dropped", "rejected")).to_be_visible()
    await expect(row(page, "finetuned/dropped").locator(".reason code")).to_have_text("weights_truncated")
    await expect(row(page, "finetuned/dropped")).to_contain_text("Copy model.safetensors again")
    await visit.shot("broken")
    (target / "model.safetensors").write_bytes(whole)
    await expect(badge(page, "finetuned/dropped", "ready")).to_be_visible()
    await expect(row(page, "finetuned/dropped").locator(".reason")).to_have_count(0)
    shutil.rmtree(target)
    await expect(row(page, "finetuned/dropped")).to_have_count(0)
    assert await page.evaluate("window.still") is True


async def test_a_copy_is_shown_growing(visit: Visit, house: House, tmp_path: Path) -> None:
    page = (await visit.open()).page
    made = Path(making.encoder(tmp_path / "made", seed=12))
    target = house.volume / "finetuned" / "growing"
    target.mkdir()
    partial = target / "model.safetensors.partial"
    partial.write_bytes(b"0" * 1000)
    going = row(page, "finetuned/growing").locator(".going")
    await expect(going).to_contain_text("1 file, 1,000 bytes so far")
    await expect(going.get_by_role("progressbar")).to_be_visible()
    partial.write_bytes(b"0" * 2_000_000)
    await expect(going).to_contain_text("2,000,000 bytes so far")
    await expect(going).to_contain_text("model.safetensors.partial")
    partial.unlink()
    shutil.copytree(made, target, dirs_exist_ok=True)
    await expect(badge(page, "finetuned/growing", "ready")).to_be_visible()
    shutil.rmtree(target)


async def test_a_model_is_loaded_pinned_and_unloaded_after_a_question(visit: Visit, gateway: RunningGateway) -> None:
    page = (await visit.open()).page
    await expect(row(page, MODEL)).to_be_visible()
    async with gateway.session.post(f"/models/{MODEL}/unload") as reply:
        assert reply.status == 200
    await listen(page)
    await page.get_by_role("button", name=f"Load {MODEL}", exact=True).click()
    await expect(badge(page, MODEL, "loaded")).to_be_visible()
    await page.wait_for_function("window.messages.includes('is loaded')")
    await expect(page.get_by_role("figure")).to_contain_text(MODEL)  # it takes its part of the budget
    detail = await opened(page, MODEL)
    await detail.get_by_role("button", name="Pin", exact=True).click()
    await expect(detail.locator(".pin")).to_be_visible()
    await detail.get_by_role("button", name="Unpin").click()
    await expect(detail.locator(".pin")).to_have_count(0)
    unload = page.get_by_role("button", name=f"Unload {MODEL}")
    await unload.click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert (await gateway.models())[f"huggingface:{MODEL}"]["state"] == "loaded"
    await unload.click()
    await expect(page.get_by_role("dialog")).to_contain_text("become free")
    await page.get_by_role("dialog").get_by_role("button", name="Unload").click()
    await expect(badge(page, MODEL, "ready")).to_be_visible()


async def test_a_model_is_rolled_back_to_the_generation_that_is_named(
    visit: Visit, house: House, gateway: RunningGateway, tmp_path: Path
) -> None:
    page = (await visit.open()).page
    target, model = house.volume / "finetuned" / "turned", "huggingface:finetuned/turned"
    drop(Path(making.encoder(tmp_path / "one", seed=21)), target)
    first = (await gateway.wait_for(model, "ready"))["generation"]
    drop(Path(making.encoder(tmp_path / "two", seed=22)), target)
    await expect(row(page, "finetuned/turned").locator(".generation")).not_to_have_text(first)
    detail = await opened(page, "finetuned/turned")
    await detail.get_by_role("button", name=f"Roll back to {first}").click()
    await expect(page.get_by_role("dialog")).to_contain_text(first)
    await visit.shot("rollback")
    await page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    await expect(row(page, "finetuned/turned").locator(".generation").first).to_have_text(first)
    assert (await gateway.models())[model]["generation"] == first
    shutil.rmtree(target)
    await expect(row(page, "finetuned/turned")).to_have_count(0)


async def test_hostile_names_and_metadata_stay_text(visit: Visit, house: House, tmp_path: Path) -> None:
    page = (await visit.open()).page
    folder = house.volume / HOSTILE
    folder.mkdir()
    made = Path(making.encoder(tmp_path / "made", seed=13))
    metadata = {"display_name": HOSTILE, "note": HOSTILE, HOSTILE: "</code><script>window.hacked = true</script>"}
    (made / "model_metadata.json").write_text(json.dumps(metadata))
    target = house.volume / "finetuned" / "hostile"
    shutil.copytree(made, target)
    await expect(badge(page, "finetuned/hostile", "ready")).to_be_visible()
    detail = await opened(page, "finetuned/hostile")
    await expect(detail.locator(".name strong")).to_have_text(HOSTILE)
    await expect(detail.locator(".metadata")).to_contain_text("<script>window.hacked = true</script>")
    await page.locator(".ignored summary").click()
    await expect(page.locator(".ignored li")).to_contain_text("<img src=x onerror=")
    assert await page.evaluate("window.hacked") is None
    assert await page.locator("main img, main script").count() == 0
    shutil.rmtree(target)
    folder.rmdir()
    await expect(row(page, "finetuned/hostile")).to_have_count(0)


async def test_a_canary_is_given_a_share_and_the_rest_of_the_file_stays(
    visit: Visit, house: House, gateway: RunningGateway, tmp_path: Path
) -> None:
    page = (await visit.open()).page
    candidate = house.volume / "finetuned" / "candidate"
    shutil.copytree(making.encoder(tmp_path / "made", seed=14), candidate)
    await gateway.wait_for("huggingface:finetuned/candidate", "ready")
    aliases = house.volume / "aliases.toml"
    aliases.write_text(f'# who answers\n[aliases]\n"prod/search" = "{MODEL}"  # since May\n')
    detail = await opened(page, MODEL)
    await detail.get_by_role("button", name="Canary of prod/search").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Canary").select_option("finetuned/candidate")
    await dialog.get_by_label("Share of the clients").fill("25")
    await visit.shot("canary")
    await dialog.get_by_role("button", name="Send 25% there").click()
    await expect(detail.locator(".alias")).to_contain_text("25% to finetuned/candidate")
    assert aliases.read_text() == (
        f'# who answers\n[aliases]\n"prod/search" = {{ to = "{MODEL}", canary = "finetuned/candidate", share = 0.25 }}'
        "  # since May\n"
    )
    async with gateway.session.get("/models") as reply:
        assert [alias["share"] for alias in (await reply.json())["aliases"]] == [0.25]
    aliases.unlink()
    await expect(detail.locator(".alias")).to_have_count(0)
    shutil.rmtree(candidate)


async def test_models_are_searched_filtered_and_sorted(visit: Visit, house: House, tmp_path: Path) -> None:
    page = (await visit.open()).page
    for name in ("alpha", "beta"):
        shutil.copytree(making.encoder(tmp_path / name, seed=15), house.volume / "team" / name)
    os.truncate(house.volume / "team" / "beta" / "model.safetensors", 0)
    await expect(badge(page, "team/beta", "rejected")).to_be_visible()
    await page.get_by_label("Search models").fill("team/")
    await expect(page.locator("li.model")).to_have_count(2)
    await page.get_by_role("button", name="Not served").click()
    await expect(page.locator("li.model")).to_have_count(1)
    await page.get_by_label("Search models").fill("nothing like it")
    await expect(page.get_by_role("heading", name="No model is like that")).to_be_visible()
    await page.get_by_label("Search models").fill("")
    await page.get_by_role("button", name="All").click()
    await page.get_by_label("Sort by").select_option("disk")
    await expect(page.locator("li.model").first).to_have_attribute("data-id", f"huggingface:{MODEL}")
    shutil.rmtree(house.volume / "team")
    await expect(row(page, "team/alpha")).to_have_count(0)


async def test_all_is_done_by_keyboard(visit: Visit, house: House, gateway: RunningGateway) -> None:
    async with gateway.session.post(f"/models/{MODEL}/load") as reply:
        assert reply.status == 200
    page = (await visit.open()).page
    name = row(page, MODEL).locator("button.name")
    await expect(badge(page, MODEL, "loaded")).to_be_visible()
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await name.evaluate("element => element === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await expect(row(page, MODEL).locator(".detail")).to_be_visible()
    await page.keyboard.press("Tab")
    unload = page.get_by_role("button", name=f"Unload {MODEL}")
    await expect(unload).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(unload).to_be_focused()
