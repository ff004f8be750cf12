"""The Training page: runs as they go, what they came to, and what changed between two generations."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests import making
from tests.console.conftest import PHONE, Chromium, House, Visit, drop
from tests.running import RunningGateway
from tests.trainer.runs import HOSTILE, finished
from trainer.run import append_json, write_json

pytestmark = pytest.mark.asyncio(loop_scope="session")
HTML = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def runs(house: House) -> Path:
    """The folder of runs beside the volume: a completed one, a failed one, and one that says odd things."""
    folder = house.volume.parent / "runs"
    finished(folder / "first")
    failed = finished(folder / "broken", status="failed", steps=20)
    told = json.loads(failed.progress.read_bytes())
    write_json(failed.progress, {**told, "error": f"out of memory {HTML}"})
    finished(folder / HTML, queries=[f"{HTML} {HOSTILE} {number}" for number in range(40)])
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def swapped(
    house: House, gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """A model that was replaced, with what is said of both."""
    base, target = tmp_path_factory.mktemp("swapped"), house.volume / "finetuned" / "swapped"
    for seed, score in ((1, 0.5), (2, 0.75)):
        made = Path(making.encoder(base / str(seed), seed=seed, dim=16, layers=1, heads=2))
        scores = {"metric": "mrr@10", "after": {"mrr@10": score}}
        (made / "model_metadata.json").write_text(json.dumps({"scores": scores, "seed": seed, "note": HTML * seed}))
        already = len(gateway.log)
        target.parent.mkdir(exist_ok=True)
        drop(made, target)
        event = "model_accepted" if seed == 1 else "model_swapped"
        await gateway.wait_for_log(event, after=already, model="finetuned/swapped")
    yield "huggingface:finetuned/swapped"
    shutil.rmtree(target)


async def test_runs_are_listed_and_one_is_told_whole(visit: Visit, runs: Path) -> None:
    page = (await visit.open("training/runs/first")).page
    listed = page.get_by_role("region", name="Runs").get_by_role("link")
    await expect(listed).to_have_count(3)
    run = page.get_by_role("region", name="Run first")
    await expect(run.get_by_text("completed", exact=True)).to_be_visible()
    await expect(run.get_by_role("region", name="Result")).to_contain_text("mrr@10 on what was held out")
    await expect(run.get_by_role("region", name="Result")).to_contain_text(" to ")
    await expect(run.get_by_text("better, not by chance")).to_be_visible()
    await expect(run.get_by_role("region", name="Scores").get_by_role("row")).to_have_count(7)
    for title in ("Loss", "Held out", "Learning rate"):
        figure = run.locator("figure").filter(has=page.get_by_text(title, exact=True))
        await expect(figure.locator("canvas")).to_be_visible()
        await expect(figure).to_contain_text(f"{title}. ")  # and in words
    await expect(run.get_by_role("heading", name="Where it comes from")).to_be_visible()
    await expect(run.get_by_role("cell", name="pairs.jsonl")).to_be_visible()
    await visit.shot("training-run-light-1280")


async def test_a_failed_run_says_why_and_hostile_texts_stay_text(visit: Visit, runs: Path) -> None:
    page = (await visit.open("training/runs/broken")).page
    await expect(page.get_by_role("region", name="Run broken").get_by_text(f"out of memory {HTML}")).to_be_visible()
    await page.get_by_role("link", name=f"{HTML} completed").click()
    run = page.get_by_role("region", name=f"Run {HTML}")
    await expect(run.get_by_role("heading", name=HTML)).to_be_visible()
    await expect(run.get_by_role("list").first).to_contain_text(HTML)
    await expect(page.locator("main img")).to_have_count(0)


async def test_a_run_that_begins_and_goes_on_is_followed_without_a_reload(visit: Visit, runs: Path) -> None:
    page = (await visit.open("training")).page
    await expect(page.get_by_role("region", name="Runs")).to_be_visible()
    run = finished(runs / "going", status="running", steps=10)
    told = json.loads(run.progress.read_bytes())
    write_json(run.progress, {**told, "step": 10, "steps": 40, "epoch": 1.0, "num_epochs": 4.0})
    try:
        await page.get_by_role("region", name="Runs").get_by_role("link", name="going").click()
        shown = page.get_by_role("region", name="Run going")
        await expect(shown.get_by_text("step 10 of 40, epoch 1.00 of 4")).to_be_visible()
        await expect(shown.get_by_role("progressbar", name="Steps")).to_have_attribute("aria-valuenow", "25")
        append_json(run.metrics, {"step": 20, "epoch": 2.0, "loss": 0.125})
        write_json(run.progress, {**told, "step": 20, "steps": 40, "epoch": 2.0, "num_epochs": 4.0})
        await expect(shown.get_by_text("step 20 of 40, epoch 2.00 of 4")).to_be_visible()
        await expect(shown.locator("figure").filter(has_text="Loss")).to_contain_text("0.125 at step 20")
    finally:
        shutil.rmtree(run.path)


async def test_what_changed_between_two_generations(visit: Visit, swapped: str) -> None:
    page = (await visit.open(f"training/changes/{swapped}")).page
    await expect(page.get_by_text("same shape", exact=True)).to_be_visible()
    files = page.get_by_role("region", name="Files")
    await expect(files.get_by_role("row", name="model.safetensors")).to_contain_text("changed")
    await expect(page.get_by_role("region", name="Scores").get_by_role("row", name="mrr@10")).to_contain_text("+0.25")
    await expect(page.get_by_role("region", name="Where it comes from").get_by_role("row", name="seed")).to_be_visible()
    await expect(page.get_by_role("region", name="What is said of it")).to_contain_text(HTML)
    await expect(page.locator("main img")).to_have_count(0)
    to = page.get_by_label("To", exact=True)
    older = await page.get_by_label("From", exact=True).input_value()
    await to.select_option(older)
    await expect(page.get_by_text("These are the same generation.")).to_be_visible()
    await visit.shot("training-changes-light-1280")


async def test_by_keyboard_from_the_list_to_a_run(visit: Visit, runs: Path) -> None:
    page = (await visit.open("training")).page
    link = page.get_by_role("region", name="Runs").get_by_role("link", name="first")
    await link.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("region", name="Run first")).to_be_focused()


async def test_on_a_phone_a_run_takes_the_place_of_the_list_and_nothing_scrolls_sideways(
    chromium: Chromium, gateway: RunningGateway, runs: Path
) -> None:
    async with chromium.visit(gateway.url, theme="dark", viewport=PHONE) as visit:
        page = (await visit.open("training")).page
        listed = page.get_by_role("region", name="Runs")
        await listed.get_by_role("link", name="first").click()
        await expect(page.get_by_role("region", name="Run first").get_by_role("region", name="Scores")).to_be_visible()
        await expect(listed).to_be_hidden()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await visit.shot("training-run-dark-390")
        await page.get_by_role("link", name="All runs").click()
        await expect(listed).to_be_visible()
