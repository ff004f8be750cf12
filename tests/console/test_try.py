"""The Try it page, in a browser: what it shows is what the gateway answers."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, expect

from tests import making
from tests.console import axe
from tests.console.conftest import MODEL, PHONE, Chromium, House, Visit, drop
from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")  # one browser and one gateway for all
TEXTS: Final = [
    "The beam was lost twice in March.",
    "In spring the electrons vanished two times.",
    "The pump is serviced once a year.",
    "光はどこ 🎉",
]
HOSTILE: Final = "<img src=x onerror=document.title='caught'>"
TWO: Final = "finetuned/two-generations"
ROUNDED: Final = 0.00051  # the table has three digits

Vectors = npt.NDArray[np.float32]


def cosines(vectors: Vectors) -> Vectors:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Vectors = unit @ unit.T
    return found


async def asked(gateway: RunningGateway, **body: Any) -> tuple[Vectors, dict[str, Any]]:
    async with gateway.session.post("/embed", json=body) as answer:
        told = await answer.json()
        assert answer.status == 200, told
        return np.array(told["embeddings"], np.float32), told


async def embed(page: Page, texts: list[str], model: str = f"huggingface:{MODEL}") -> None:
    await page.get_by_label("Model", exact=True).select_option(model)
    await page.get_by_label("Texts, one a line").fill("\n".join(texts))
    await page.get_by_role("button", name="Embed").click()


def side(page: Page, title: str) -> Locator:
    return page.get_by_role("region", name=title, exact=True)


async def table(card: Locator) -> Vectors:
    """The numbers of a map, from the table beside it."""
    if await card.locator("details.heat-table[open]").count() == 0:
        await card.get_by_text("As a table").click()
    rows = card.locator("table.cells tbody tr")
    await expect(rows.first).to_be_visible()
    cells = await rows.evaluate_all(
        "rows => rows.map(row => [...row.querySelectorAll('td')].map(td => td.textContent))"
    )
    return np.array([[float(cell) for cell in row] for row in cells], np.float32)


async def test_the_map_has_the_cosines_of_the_gateways_vectors_and_the_facts_are_its_answers(
    visit: Visit, gateway: RunningGateway
) -> None:
    vectors, told = await asked(gateway, inputs=TEXTS, model=MODEL)
    page = (await visit.open("try")).page
    async with page.expect_response("**/embed") as answering:
        await embed(page, TEXTS)
    answer = await answering.value
    card = side(page, "All MiniLM L6 V2")
    assert np.abs(await table(card) - cosines(vectors)).max() < ROUNDED
    await expect(card.locator(".generation")).to_have_text(told["generation"])
    await expect(fact(card, "Tokens")).to_have_text(str(told["usage"]["tokens"]))
    await expect(fact(card, "Numbers each")).to_have_text("384")
    timing = answer.headers["server-timing"].split(", ")
    assert [part.split(";dur=")[0] for part in timing] == ["load", "queue", "compute"]
    await expect(fact(card, "Compute")).to_have_text(shown_milliseconds(float(timing[2].split("=")[1])))
    nearest = cosines(vectors)[0, 1]
    await expect(card.locator(".pair").first).to_contain_text(f"{nearest:.3f}")
    await visit.shot("try")


def fact(card: Locator, name: str) -> Locator:
    return card.locator("dl.measures > div", has=card.page.get_by_text(name, exact=True)).locator("dd")


def shown_milliseconds(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.1f} ms"


async def test_the_slider_shows_what_dimensions_asks_for(visit: Visit, gateway: RunningGateway) -> None:
    page = (await visit.open("try")).page
    await embed(page, TEXTS)
    card = side(page, "All MiniLM L6 V2")
    await card.locator("canvas.heat-map").wait_for()
    for dim in (64, 7):
        await page.get_by_label("Dimensions").fill(str(dim))
        vectors, _ = await asked(gateway, inputs=TEXTS, model=MODEL, dimensions=dim)
        await expect(page.get_by_text(f"{dim} of 384", exact=True).first).to_be_visible()
        assert np.abs(await table(card) - cosines(vectors)).max() < ROUNDED
        head = await page.locator(".strip-head").first.text_content()
        assert np.abs(np.fromstring((head or "").strip("[]…, "), np.float32, sep=",") - vectors[0, :6]).max() < 6e-5
        await expect(page.locator("pre.code")).to_contain_text(f'"dimensions": {dim}')
    assert await page.locator(".dims").evaluate("bar => bar.scrollHeight <= bar.clientHeight")  # nothing is cut off
    await page.get_by_role("button", name="384", exact=True).click()
    await expect(page.locator("pre.code")).not_to_contain_text("dimensions")


async def test_the_programs_on_the_screen_make_what_is_on_the_screen(
    visit: Visit, gateway: RunningGateway, tmp_path: Path
) -> None:
    texts = ['it\'s a "beam" of $HOME `id` \\n', "<b>光</b> 🎉", "x"]
    vectors, _ = await asked(gateway, inputs=texts, model=MODEL)
    page = (await visit.open("try")).page
    await embed(page, texts)
    code = page.locator("pre.code")
    curl = await ran(["bash", "-c", await code.inner_text()])
    assert np.abs(np.array(json.loads(curl)["embeddings"], np.float32) - vectors).max() < 1e-5
    await page.get_by_role("button", name="Python", exact=True).click()
    program = await code.inner_text()
    assert np.abs(await printed(program) - vectors).max() < 1e-5
    await page.get_by_role("button", name="openai-python", exact=True).click()
    compile(await code.inner_text(), "openai-python", "exec")  # tests/clients runs it


async def ran(command: list[str]) -> str:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def printed(program: str) -> Vectors:
    more = "\nimport json\nprint(json.dumps(vectors))"
    return np.array(json.loads((await ran([sys.executable, "-c", program + more])).splitlines()[-1]), np.float32)


async def test_a_hundred_texts_come_as_base64_and_are_shown_whole(visit: Visit, gateway: RunningGateway) -> None:
    texts = [f"Shift {number}: the current was {number * 3} milliamperes." for number in range(100)]
    vectors, _ = await asked(gateway, inputs=texts, model=MODEL)
    page = (await visit.open("try")).page
    async with page.expect_response("**/embed") as answering:
        await embed(page, texts)
    told = await (await answering.value).json()
    assert np.frombuffer(base64.b64decode(told["embeddings"][99]), "<f4").shape == (384,)
    card = side(page, "All MiniLM L6 V2")
    await card.get_by_text("Each text's nearest").click()
    rows = card.locator("table.cells tbody tr")
    await expect(rows).to_have_count(100)
    wanted = cosines(vectors) - 2 * np.eye(100, dtype=np.float32)
    shown = await rows.locator("td:last-child").all_text_contents()
    assert np.abs(np.array(shown, np.float32) - wanted.max(axis=1)).max() < 6e-5
    await page.get_by_role("button", name="Show all 100").click()
    await expect(page.locator(".strips li")).to_have_count(100)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def generations(
    gateway: RunningGateway, house: House, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[str]]:
    """Two generations of one model, the older one first; it has prompts, and a display name that is hostile."""
    found: list[str] = []
    target = house.volume / TWO
    for seed in (1, 2):
        made = tmp_path_factory.mktemp("generations") / "two"
        making.encoder(made, seed=seed, prompts={"query": "alpha: ", "passage": "beta gamma: "})
        (made / "model_metadata.json").write_text(json.dumps({"display_name": HOSTILE}))
        drop(made, target)
        if seed == 1:
            found.append((await gateway.wait_for(f"huggingface:{TWO}", "ready", "loaded"))["generation"])
        else:
            found.append((await gateway.wait_for_log("model_swapped", model=TWO))["generation"])
    yield found
    shutil.rmtree(target)


async def test_two_generations_stand_side_by_side_and_what_differs_is_their_difference(
    visit: Visit, gateway: RunningGateway, generations: list[str]
) -> None:
    texts = ["alpha beta", "gamma delta", "alpha alpha gamma", "delta"]
    older, newer = [(await asked(gateway, inputs=texts, model=f"{TWO}@{each}"))[0] for each in generations]
    page = (await visit.open("try")).page
    await page.get_by_label("Side by side with").check()
    await page.get_by_label("Model", exact=True).select_option(f"huggingface:{TWO}")
    await page.get_by_label("Other model").select_option(f"huggingface:{TWO}")
    await page.get_by_label("Other generation").select_option(generations[0])
    await embed(page, texts, f"huggingface:{TWO}")
    live, kept = side(page, f"{HOSTILE} (live)"), side(page, f"{HOSTILE} @{generations[0]}")
    await expect(live.locator(".generation")).to_have_text(generations[1])
    await expect(kept.locator(".generation")).to_have_text(generations[0])
    assert np.abs(await table(live) - cosines(newer)).max() < ROUNDED
    assert np.abs(await table(kept) - cosines(older)).max() < ROUNDED
    difference = side(page, "What differs")
    assert np.abs(await table(difference) - (cosines(newer) - cosines(older))).max() < ROUNDED
    await expect(page.locator("pre.code")).to_contain_text(f'"model": "{TWO}@{generations[0]}"')
    for language in ("Python", "openai-python"):
        await page.get_by_role("button", name=language, exact=True).click()
        compile(await page.locator("pre.code").inner_text(), language, "exec")
    await visit.shot("try-two")


async def test_a_prompt_is_offered_where_the_model_has_some(
    visit: Visit, gateway: RunningGateway, generations: list[str]
) -> None:
    texts = ["alpha beta", "gamma delta", "alpha"]
    page = (await visit.open("try")).page
    await page.get_by_label("Model", exact=True).select_option(f"huggingface:{TWO}")
    await page.get_by_label("Prompt").select_option("passage")
    await embed(page, texts, f"huggingface:{TWO}")
    with_prompt, _ = await asked(gateway, inputs=texts, model=TWO, prompt_name="passage")
    assert np.abs(await table(side(page, HOSTILE)) - cosines(with_prompt)).max() < ROUNDED
    await expect(page.locator("pre.code")).to_contain_text("passage")


async def test_hostile_names_and_texts_stay_text(visit: Visit, generations: list[str]) -> None:
    page = (await visit.open("try")).page
    await embed(page, [HOSTILE, "<script>document.title='caught'</script>", "</textarea><b>x"], f"huggingface:{TWO}")
    card = side(page, HOSTILE)
    await card.get_by_text("As a table").click()
    await expect(card.get_by_role("heading", name=HOSTILE)).to_be_visible()
    await expect(card.locator("th[scope=row]").first).to_contain_text(HOSTILE)
    assert await page.locator("main img, main script, main b:text-is('x')").count() == 0
    assert "caught" not in await page.title()


async def test_the_map_is_walked_with_the_arrow_keys(visit: Visit, gateway: RunningGateway) -> None:
    vectors, _ = await asked(gateway, inputs=TEXTS, model=MODEL)
    page = (await visit.open("try")).page
    await embed(page, TEXTS)
    canvas = side(page, "All MiniLM L6 V2").locator("canvas.heat-map")
    await canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"):
        await page.keyboard.press(key)
    reading = page.locator(".reading")
    await expect(reading).to_contain_text(TEXTS[3])
    row = (await reading.locator("i").first.text_content()) or ""
    await expect(reading).to_contain_text(f"{cosines(vectors)[int(row) - 1, 3]:.4f}")


async def test_stop_and_leaving_the_page_end_the_request(visit: Visit) -> None:
    page = (await visit.open("try")).page

    def of_embed(request: Any) -> bool:  # the page gives up its look at a model's details too when another is chosen
        return str(request.url).endswith("/embed")

    held: list[Any] = []  # never answered
    await page.route("**/embed", lambda route: held.append(route))  # noqa: PLW0108 - playwright writes into it
    async with page.expect_event("requestfailed", of_embed):
        await embed(page, TEXTS)
        await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_text("Stopped before the answer came.")).to_be_visible()
    async with page.expect_event("requestfailed", of_embed):
        await page.get_by_role("button", name="Embed").click()
        await page.get_by_role("link", name="Models", exact=True).click()
    await page.unroute("**/embed")
    await page.get_by_role("link", name="Try it", exact=True).click()
    await expect(page.get_by_label("Texts, one a line")).to_have_value("\n".join(TEXTS))  # what was typed has stayed
    await page.get_by_role("button", name="Embed").click()
    await expect(page.locator("canvas.heat-map")).to_be_visible()


async def test_a_refusal_is_told_with_its_code_and_what_to_do(visit: Visit) -> None:
    visit.expect_failures("413")
    page = (await visit.open("try")).page
    paste = "area => { area.value = 'x\\n'.repeat(2049); area.dispatchEvent(new Event('input', {bubbles: true})); }"
    await page.get_by_label("Texts, one a line").evaluate(paste)  # typed by a test it takes a minute
    await page.get_by_role("button", name="Embed").click()
    trouble = page.get_by_role("alert")
    await expect(trouble).to_contain_text("too_many_inputs")
    await expect(trouble).to_contain_text("Send fewer texts at once.")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_on_a_phone_nothing_runs_over_the_edge_and_axe_finds_nothing_serious(
    chromium: Chromium, gateway: RunningGateway, theme: str, generations: list[str]
) -> None:
    async with chromium.visit(gateway.url, theme=theme, viewport=PHONE) as visit:
        page = (await visit.open("try")).page
        await page.get_by_label("Side by side with").check()
        await embed(page, ["w" * 300, *TEXTS])
        await expect(page.locator("canvas.heat-map")).to_have_count(3)
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert await axe.findings(page) == []
        await visit.shot(f"try-phone-{theme}")


async def test_with_nothing_to_embed_with_the_pages_say_what_to_do(chromium: Chromium, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    async with (
        RunningGateway(tmp_path / "models", tmp_path / "state", "--device=cpu") as empty,
        chromium.visit(empty.url) as visit,
    ):
        page = (await visit.open("try")).page
        await expect(page.get_by_role("heading", name="Nothing to embed with yet")).to_be_visible()
        await expect(page.get_by_text("cp -r my-model")).to_be_visible()
        await page.get_by_role("link", name="Ask", exact=True).click()
        await expect(page.get_by_role("heading", name="No model to find passages with")).to_be_visible()
        making.encoder(tmp_path / "models/finetuned/new")
        await page.get_by_role("link", name="Try it", exact=True).click()
        await expect(page.get_by_role("button", name="Embed")).to_be_visible()  # without a reload
