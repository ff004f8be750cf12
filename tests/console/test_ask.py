"""The Ask page, in a browser: documents in, questions, answers as they are said, and the passages they rest on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio
from playwright.async_api import FilePayload, Page, Route, expect

from tests.ask.talking import Talking
from tests.console import axe
from tests.console.conftest import MODEL, PHONE, Chromium, House, Visit
from tests.running import DEADLINE, RunningGateway

pytest.importorskip("lancedb", reason="the extra `ask` is not installed")
pytestmark = pytest.mark.asyncio(loop_scope="session")  # one browser and one gateway for all

RING: Final = (
    "# Storage ring 🎉🎉\n\nThe beam was lost twice in March 🎉. Both times a fault of the cavity was the cause.\n\n"
    "The orbit is corrected ten times a second."
)
SENTENCE: Final = "The beam was lost twice in March 🎉."
HOSTILE: Final = "<img src=x onerror=document.title='caught'>"
DOCUMENTS: Final = {
    "ring.md": RING,
    "gun.txt": "The electron gun was replaced in June. Its new cathode lasts for about a year.",
    "vacuum.txt": "The vacuum chamber is baked at two hundred degrees before use. The pumps are started a day later.",
    f"{HOSTILE}.txt": f"Lunch is served at noon in the {HOSTILE} cafeteria. </pre><b>Bold soup</b> is on the menu.",
}


@pytest_asyncio.fixture(loop_scope="session")
async def physics(gateway: RunningGateway) -> AsyncIterator[str]:
    """A knowledge base of the test's own. Asked for before `visit`, so that the page is gone when it goes."""
    name = f"physics-{uuid.uuid4().hex[:8]}"
    documents = [{"name": each, "content": content} for each, content in DOCUMENTS.items()]
    async with gateway.session.post(f"/kb/{name}/documents", json={"documents": documents}) as answer:
        assert answer.status == 200, await answer.text()
    yield name
    async with gateway.session.delete(f"/kb/{name}") as answer:
        assert answer.status in {200, 404}


async def open_ask(visit: Visit, kb: str) -> Page:
    page: Page = (await visit.open("ask")).page
    await page.get_by_label("Knowledge base", exact=True).select_option(kb)
    return page


async def put(page: Page, question: str) -> None:
    await page.get_by_label("Question").fill(question)
    await page.get_by_role("button", name="Ask", exact=True).click()


async def test_an_answer_has_a_citation_that_opens_the_passage_in_its_document(
    physics: str, visit: Visit, gateway: RunningGateway
) -> None:
    question = "When was the beam lost?"
    body = {"query": question, "knowledge_base": physics}
    async with gateway.session.post("/ask", json=body) as answer:
        told = await answer.json()
    assert SENTENCE in told["answer"]
    page = await open_ask(visit, physics)
    await put(page, question)
    card = page.get_by_role("region", name="Answer", exact=True)
    await expect(card.get_by_text("supported", exact=True)).to_be_visible()
    await expect(card.locator(".answer-text")).to_contain_text(SENTENCE)
    rows = card.locator(".passages li")
    await expect(rows).to_have_count(len(told["documents"]))
    for number, document in enumerate(told["documents"]):
        await expect(rows.nth(number)).to_contain_text(document["source"])
        await expect(rows.nth(number)).to_contain_text(f"{document['score']:.3f}")
    await expect(card.locator(".generation")).to_have_text(told["generation"])
    citation = next(each for each in told["citations"] if each["quote"] == SENTENCE)
    place = told["citations"].index(citation)
    await card.locator("button.cite").nth(place).click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("heading", name="ring.md")).to_be_visible()
    await expect(dialog.locator("mark.quote")).to_have_text(
        SENTENCE
    )  # two characters in one, before it, do not shift it
    assert await dialog.locator(".document").text_content() == RING
    await visit.shot("ask-passage")
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(card.locator("button.cite").nth(place)).to_be_focused()
    await rows.nth(1).get_by_role("button").click()
    await expect(page.get_by_role("dialog").locator("mark.passage")).to_be_visible()


async def test_what_is_not_in_the_documents_is_said_so(physics: str, visit: Visit) -> None:
    page = await open_ask(visit, physics)
    await put(page, "Who won the football cup of 1974?")
    await expect(page.get_by_text("not in the documents", exact=True)).to_be_visible()


async def test_hostile_documents_and_names_stay_text(physics: str, visit: Visit) -> None:
    page = await open_ask(visit, physics)
    await put(page, "When is lunch served?")
    card = page.get_by_role("region", name="Answer", exact=True)
    await expect(card.locator(".answer-text")).to_contain_text(HOSTILE)
    await card.locator("button.cite").first.click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("heading", name=f"{HOSTILE}.txt")).to_be_visible()
    await expect(dialog.locator(".document")).to_contain_text("</pre><b>Bold soup</b>")
    assert await page.locator("main img, dialog img, dialog b").count() == 0
    assert "caught" not in await page.title()


async def test_two_settings_answer_side_by_side(physics: str, visit: Visit) -> None:
    page = await open_ask(visit, physics)
    await page.get_by_label("Two settings side by side").check()
    second = page.get_by_role("group", name="Second")
    await second.get_by_label("Knowledge base").select_option(physics)
    await second.get_by_label("Found by").select_option("Meaning alone")
    await second.get_by_label("Passages").fill("1")
    await put(page, "How long does the cathode last?")
    for name, count in (("First answer", 4), ("Second answer", 1)):
        card = page.get_by_role("region", name=name)
        await expect(card.locator(".answer-text")).to_contain_text("Its new cathode lasts for about a year.")
        await expect(card.locator(".passages li")).to_have_count(count)
    await expect(page.get_by_text("1 passage · by meaning alone")).to_be_visible()
    await visit.shot("ask-two")


async def test_a_knowledge_base_is_made_filled_by_dropping_asked_and_deleted(
    physics: str, visit: Visit, gateway: RunningGateway
) -> None:
    name = f"made-{uuid.uuid4().hex[:8]}"
    page = await open_ask(visit, physics)
    await page.get_by_role("button", name="New…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Name").fill(physics)
    await expect(dialog.get_by_text("There is one of this name.")).to_be_visible()
    await expect(dialog.get_by_role("button", name="Create")).to_be_disabled()
    await dialog.get_by_label("Name").fill(name)
    await dialog.get_by_label("Embedding model").select_option(f"huggingface:{MODEL}")
    await dialog.get_by_role("button", name="Create").click()
    card = page.get_by_role("region", name=f"Knowledge base {name}")
    await expect(card).to_be_visible()
    visit.expect_failures("422")  # of the file that is no PDF
    await drop(
        page, {"laser.md": "# Laser\n\nThe laser is cooled with water from the river.", "bad.pdf": "%PDF-1.7 no"}
    )
    uploads = card.locator(".uploads li")
    await expect(uploads.filter(has_text="laser.md").get_by_text("can be found")).to_be_visible()
    await expect(uploads.filter(has_text="bad.pdf")).to_contain_text("document_unreadable")
    await expect(card.get_by_role("list", name="Documents")).to_contain_text("laser.md")
    await put(page, "What is the laser cooled with?")
    await expect(page.locator(".answer-text")).to_contain_text("The laser is cooled with water from the river.")
    chosen = FilePayload(name="chosen.txt", mimeType="text/plain", buffer=b"The mirror weighs nine tons.")
    await card.locator("input[type=file]").set_input_files(chosen)
    await expect(uploads.filter(has_text="chosen.txt").get_by_text("can be found")).to_be_visible()
    await visit.shot("ask-documents")
    await card.get_by_role("button", name="Delete chosen.txt").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    await expect(card.get_by_role("list", name="Documents").get_by_role("listitem")).to_have_count(2)
    await card.get_by_role("button", name="Delete chosen.txt").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(card.get_by_role("list", name="Documents").get_by_role("listitem")).to_have_count(1)
    await card.get_by_role("button", name="Delete this knowledge base").click()
    await expect(page.get_by_role("dialog")).to_contain_text(f"{name} goes with its 1 document")
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_label("Knowledge base", exact=True).get_by_role("option", name=name)).to_have_count(0)
    async with gateway.session.get("/kb") as answer:
        assert name not in {each["name"] for each in (await answer.json())["knowledge_bases"]}


async def test_a_base_that_is_being_indexed_is_looked_at_again_after_a_look_that_failed(
    physics: str, visit: Visit
) -> None:
    looks, again = 0, asyncio.Event()

    async def look(route: Route) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            response = await route.fetch()
            told = await response.json()
            for base in told["knowledge_bases"]:
                base["state"] = "indexing"
            await route.fulfill(response=response, json=told)
        elif looks == 2:
            await route.abort()
        else:
            await route.continue_()
            again.set()

    visit.expect_failures("ERR_FAILED")
    await visit.page.route("**/kb", look)
    page = await open_ask(visit, physics)
    async with asyncio.timeout(DEADLINE):
        await again.wait()
    await expect(page.get_by_role("region", name=f"Knowledge base {physics}")).to_be_visible()


async def drop(page: Page, files: dict[str, str]) -> None:
    """As the browser tells a page of files that somebody lets go over it."""
    make = """files => { const found = new DataTransfer();
        for (const [name, text] of Object.entries(files)) found.items.add(new File([text], name)); return found; }"""
    transfer = await page.evaluate_handle(make, files)
    for event in ("dragover", "drop"):
        await page.dispatch_event(".drop", event, {"dataTransfer": transfer})


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_on_a_phone_nothing_runs_over_the_edge_and_axe_finds_nothing_serious(
    chromium: Chromium, gateway: RunningGateway, physics: str, theme: str
) -> None:
    async with chromium.visit(gateway.url, theme=theme, viewport=PHONE) as visit:
        page = await open_ask(visit, physics)
        await page.get_by_label("Two settings side by side").check()
        await put(page, "When is lunch served?")
        await expect(page.locator("button.cite").first).to_be_visible()
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert await axe.findings(page) == []
        await visit.shot(f"ask-phone-{theme}")


class Guarded:
    """A gateway that asks for a key and knows a provider of language models."""

    def __init__(self, gateway: RunningGateway, upstream: Talking, key: str) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.key = key


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(house: House, chromium: Chromium, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    base = tmp_path_factory.mktemp("guarded")
    command = [sys.executable, "-m", "gateway", "keys", "create", "tester", "--role=operate", f"--state-dir={base}"]
    made = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=DEADLINE)
    assert made.returncode == 0, made.stderr
    key = made.stdout.split()[-1]
    async with Talking() as upstream:
        (base / "key").write_text("sk-secret")
        table = f'[local]\nbase_url = "{upstream.url}"\napi_key_file = "{base / "key"}"\n'
        models = ["answers", "waits", "cut", "cites-what-is-not-there"]
        (base / "providers.toml").write_text(f"{table}models = {json.dumps(models)}\n")
        options = ("--device=cpu", f"--default-model={MODEL}", f"--providers={base / 'providers.toml'}")
        gateway = RunningGateway(house.volume, base, *options)
        gateway.headers = {"X-API-Key": key}
        async with gateway:
            await gateway.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
            documents = [{"name": "ring.md", "content": RING}]
            async with gateway.session.post("/kb/ring/documents", json={"documents": documents}) as answer:
                assert answer.status == 200, await answer.text()
            yield Guarded(gateway, upstream, key)


@pytest_asyncio.fixture(loop_scope="session")
async def keyed(chromium: Chromium, guarded: Guarded) -> AsyncIterator[Visit]:
    """The Ask page of a tenant."""
    async with chromium.visit(guarded.gateway.url) as visit:
        visit.expect_failures("401")
        await visit.page.add_init_script(f"sessionStorage.setItem('dropgate.key', {json.dumps(guarded.key)})")
        await visit.open("ask")
        yield visit


async def answered_by(page: Page, model: str) -> None:
    await page.get_by_label("Answered by").select_option(f"local:{model}")
    await put(page, "Where is the beam?")


async def test_an_answer_is_shown_while_it_is_said_and_stop_ends_it(keyed: Visit, guarded: Guarded) -> None:
    page = keyed.page
    guarded.upstream.left.clear()
    await answered_by(page, "waits")
    card = page.get_by_role("region", name="Answer", exact=True)
    await expect(card.locator(".answer-text")).to_contain_text("The")  # and no more: the language model waits
    await expect(card.locator(".passages li").first).to_contain_text("ring.md")
    await page.get_by_role("button", name="Stop").click()
    await expect(card.get_by_text("Stopped.")).to_be_visible()
    async with asyncio.timeout(DEADLINE):
        await guarded.upstream.left.wait()  # the provider was told, too


async def test_leaving_the_page_ends_the_answer(keyed: Visit, guarded: Guarded) -> None:
    page = keyed.page
    guarded.upstream.left.clear()
    await answered_by(page, "waits")
    await expect(page.locator(".answer-text")).to_contain_text("The")
    await page.get_by_role("link", name="Models", exact=True).click()
    async with asyncio.timeout(DEADLINE):
        await guarded.upstream.left.wait()


async def test_a_number_that_names_no_passage_is_no_citation(keyed: Visit) -> None:
    await answered_by(keyed.page, "cites-what-is-not-there")
    card = keyed.page.get_by_role("region", name="Answer", exact=True)
    await expect(card.locator("button.cite")).to_have_text(["1"])
    await expect(card.locator(".measures")).to_contain_text("cites-what-is-not-there (local)")


async def test_an_answer_that_breaks_off_is_told_with_its_code(keyed: Visit) -> None:
    await answered_by(keyed.page, "cut")
    await expect(keyed.page.get_by_role("alert")).to_contain_text("provider_failed")
    await expect(keyed.page.get_by_role("button", name="Ask", exact=True)).to_be_visible()


async def test_a_tenants_key_goes_with_uploads_and_stands_in_no_program(
    keyed: Visit, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = keyed.page
    file = FilePayload(name="mine.txt", mimeType="text/plain", buffer=b"The mirror weighs nine tons.")
    await page.locator("input[type=file]").set_input_files(file)
    await expect(page.locator(".uploads li").get_by_text("can be found")).to_be_visible()
    await put(page, "How much does the mirror weigh?")
    await expect(page.locator(".answer-text")).to_contain_text("nine tons")
    code = page.locator("pre.code")
    program = await code.inner_text()
    assert guarded.key not in await page.content()
    environment = {**os.environ, "DROPGATE_KEY": guarded.key}
    for command in (["bash", "-c", program], [sys.executable, "-c"]):
        if command[0] == sys.executable:
            await page.get_by_role("button", name="Python", exact=True).click()
            command.append(await code.inner_text())
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, env=environment)
        assert "nine tons" in done.stdout, done.stderr
