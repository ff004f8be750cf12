"""Knowledge bases over HTTP, with a real model, a real store, and a gateway that is killed in the middle."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from tests.ask.papers import pdf
from tests.making import minilm
from tests.running import RunningGateway, descendants

pytest.importorskip("lancedb", reason="the extra `ask` is not installed")
pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL: Final = "huggingface:base/minilm"
NOTES: Final = """# Storage ring

The beam was lost twice in March, both times by a fault of the cavity.

# Injector

The electron gun was replaced in June. Its new cathode lasts for a year.
"""
PAGE: Final = """<html><body><article><h1>Vacuum</h1><p>The vacuum chamber is baked at two hundred degrees before it is
used, and the pumps are started one day later.</p></article></body></html>"""


class Asked:
    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


async def ask(gateway: RunningGateway, method: str, path: str, body: Any = None, **more: Any) -> Asked:
    async with gateway.session.request(method, path, json=body, **more) as answer:
        return Asked(answer.status, await answer.json())


async def put(gateway: RunningGateway, name: str, documents: dict[str, str], query: str = "") -> Asked:
    body = {"documents": [{"name": each, "content": content} for each, content in documents.items()]}
    return await ask(gateway, "POST", f"/kb/{name}/documents{query}", body)


async def search(gateway: RunningGateway, name: str, query: str, **more: Any) -> list[dict[str, Any]]:
    found = await ask(gateway, "POST", f"/kb/{name}/search", {"query": query, **more})
    assert found.status == 200, found.body
    hits: list[dict[str, Any]] = found.body["hits"]
    return hits


def serving(base: Path, *options: str) -> RunningGateway:
    root = base / "models"
    if not root.exists():
        (root / "base").mkdir(parents=True)
        shutil.copytree(minilm(), root / "base/minilm")
    return RunningGateway(root, base / "state", "--default-model=base/minilm", "--settle-seconds=0.1", *options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    patient = ("--request-timeout=300", "--body-timeout=300")  # a host that was killed is waited for, and 100 MB
    async with serving(tmp_path_factory.mktemp("knowledge"), "--max-document-bytes=200kB", *patient) as running:
        await running.wait_for(MODEL, "ready", "loaded")
        yield running


async def test_three_files_go_in_and_their_passages_are_found(gateway: RunningGateway) -> None:
    form = aiohttp.FormData()
    form.add_field("metadata", json.dumps({"year": 2024}))
    form.add_field("file", NOTES.encode(), filename="notes.md")
    form.add_field("file", PAGE.encode(), filename="page.html", content_type="text/html")
    form.add_field("file", pdf(["The undulator has a period", "of eighteen millimetres"]), filename="paper.pdf")
    added = await ask(gateway, "POST", "/kb/three/documents", data=form)
    assert added.status == 200, added.body
    assert added.body["counts"] == {"added": 3}
    [best, *_] = await search(gateway, "three", "what was exchanged in the injector?")
    assert (best["name"], best["heading"], best["metadata"]) == ("notes.md", "Storage ring", {"year": 2024})
    assert 0.3 < best["score"] <= 1
    [best, *_] = await search(gateway, "three", "undulator period")
    assert (best["name"], best["page"]) == ("paper.pdf", 1)
    [best, *_] = await search(gateway, "three", "how hot is the chamber made?", limit=1)
    assert best["name"] == "page.html"
    stored = await ask(gateway, "GET", f"/kb/three/documents/{best['document']}")
    assert stored.body["text"][best["start"] : best["end"]] == best["text"]


async def test_hosts_and_parsers_are_started_as_ever_once_a_base_was_used(gateway: RunningGateway) -> None:
    await put(gateway, "started", {"a.txt": "The host was killed."})
    for child in descendants(gateway.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    form = aiohttp.FormData()
    form.add_field("file", pdf(["The parser was killed."]), filename="b.pdf")
    assert (await ask(gateway, "POST", "/kb/started/documents", data=form)).body["counts"] == {"added": 1}
    assert [hit["name"] for hit in await search(gateway, "started", "the parser")] == ["b.pdf", "a.txt"]
    assert [line for line in map(str, gateway.log) if "fork" in line] == []


async def test_a_base_says_what_it_is(gateway: RunningGateway) -> None:
    await put(gateway, "said", {"a.txt": "One.", "b.txt": "Two."})
    said = await ask(gateway, "GET", "/kb/said")
    wanted = {"name": "said", "documents": 2, "chunks": 2, "state": "ready", "pending": 0, "failed": [], "error": None}
    assert said.body.items() >= wanted.items()
    assert said.body["generation"] == (await gateway.models())[MODEL]["generation"]
    listed = await ask(gateway, "GET", "/kb")
    assert said.body in listed.body["knowledge_bases"]
    documents = await ask(gateway, "GET", "/kb/said/documents?offset=1")
    assert (documents.body["total"], [each["name"] for each in documents.body["documents"]]) == (2, ["b.txt"])


async def test_documents_searches_and_questions_are_charged_by_the_tokens_that_they_embed(
    gateway: RunningGateway,
) -> None:
    text, query = "The undulator was moved on Monday.", "when was the undulator moved?"
    answer = await ask(gateway, "POST", "/embed", {"inputs": [query, text]})
    both = answer.body["usage"]["tokens"]
    of_query = (await ask(gateway, "POST", "/embed", {"inputs": [query]})).body["usage"]["tokens"]
    spent = [await used(gateway)]
    await put(gateway, "charged", {"a.txt": text})
    spent.append(await used(gateway))
    await search(gateway, "charged", query)
    spent.append(await used(gateway))
    asked = {"query": query, "knowledge_base": "charged", "llm_model": "extractive"}
    assert (await ask(gateway, "POST", "/ask", asked)).status == 200
    spent.append(await used(gateway))
    documents, searched, answered = (after - before for before, after in itertools.pairwise(spent))
    assert documents == both - of_query
    assert searched == of_query
    assert answered >= both, "the query, and the sentences of the passage"


async def used(gateway: RunningGateway) -> int:
    """Tokens that the model has computed so far."""
    rows = (await ask(gateway, "GET", "/usage")).body["usage"]
    return sum(row["tokens"] for row in rows if row["model"] == MODEL)


async def test_the_same_name_replaces_and_the_same_content_is_left_alone(gateway: RunningGateway) -> None:
    await put(gateway, "again", {"a.txt": "The first text."})
    assert (await put(gateway, "again", {"a.txt": "The first text."})).body["counts"] == {"unchanged": 1}
    assert (await put(gateway, "again", {"a.txt": "Another text."})).body["counts"] == {"replaced": 1}
    assert [hit["text"] for hit in await search(gateway, "again", "text")] == ["Another text."]


async def test_the_tail_of_a_long_document_is_found(gateway: RunningGateway) -> None:
    text = "Nothing of interest happened on this day. " * 2000 + "The kraken rose at dusk."
    await put(gateway, "tail", {"long.txt": text})
    [best, *_] = await search(gateway, "tail", "kraken at dusk")
    assert best["text"].endswith("The kraken rose at dusk.")
    document = (await ask(gateway, "GET", f"/kb/tail/documents/{best['document']}")).body
    covered = 0
    for chunk in sorted(document["chunks"], key=lambda each: each["start"]):
        assert chunk["start"] <= covered
        covered = max(covered, chunk["end"])
    assert covered == len(document["text"]) == len(text)


async def test_a_deleted_document_is_found_no_more(gateway: RunningGateway) -> None:
    added = await put(gateway, "less", {"a.txt": "About apples.", "b.txt": "About bees."})
    [apples, _] = added.body["documents"]
    assert (await ask(gateway, "DELETE", f"/kb/less/documents/{apples['id']}")).body["deleted"] is True
    assert {hit["name"] for hit in await search(gateway, "less", "apples")} == {"b.txt"}
    again = await ask(gateway, "DELETE", f"/kb/less/documents/{apples['id']}")
    assert (again.status, again.code) == (404, "document_not_found")


async def test_dropping_papers_leaves_physics_papers(gateway: RunningGateway) -> None:
    for name in ("papers", "physics_papers", "papers2"):
        await put(gateway, name, {"a.txt": f"In {name}."})
    assert (await ask(gateway, "DELETE", "/kb/papers")).body == {"knowledge_base": "papers", "deleted": True}
    names = {each["name"] for each in (await ask(gateway, "GET", "/kb")).body["knowledge_bases"]}
    assert {"physics_papers", "papers2"} <= names
    assert "papers" not in names
    assert [hit["text"] for hit in await search(gateway, "physics_papers", "in")] == ["In physics_papers."]
    assert (await ask(gateway, "DELETE", "/kb/papers")).status == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/kb/none", None),
        ("DELETE", "/kb/none", None),
        ("GET", "/kb/none/documents", None),
        ("GET", "/kb/none/documents/0123", None),
        ("DELETE", "/kb/none/documents/0123", None),
        ("POST", "/kb/none/reindex", None),
        ("POST", "/kb/none/search", {"query": "x"}),
        ("POST", "/kb/count", {"knowledge_base": "none"}),
        ("POST", "/kb/sample", {"knowledge_base": "none"}),
        ("POST", "/kb/docs", {"knowledge_base": "none"}),
        ("POST", "/kb/docs", None),
    ],
)
async def test_asking_a_base_that_is_not_there_is_a_404_that_makes_none(
    gateway: RunningGateway, method: str, path: str, body: Any
) -> None:
    asked = await ask(gateway, method, path, body)
    assert (asked.status, asked.code) == (404, "knowledge_base_not_found")
    names = {each["name"] for each in (await ask(gateway, "GET", "/kb")).body["knowledge_bases"]}
    assert not names & {"none", "default"}


@pytest.mark.parametrize("name", ["..", ".hidden", "a b", "a%2Fb", "%00", "x" * 129, "list", "ünder", "a'b", "-x"])
async def test_a_hostile_name_is_refused(gateway: RunningGateway, name: str) -> None:
    asked = await put(gateway, name, {"a.txt": "x"})
    assert asked.status in {400, 404}, asked.body
    assert asked.code in {"invalid_body", "route_not_found"}


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        ({"documents": [{"name": "a.txt"}]}, "invalid_body", 400),
        ({"documents": [{"name": "", "content": "x"}]}, "invalid_body", 400),
        ({"documents": [{"name": "a\nb", "content": "x"}]}, "invalid_body", 400),
        ({"documents": [{"name": "a", "content": "x", "metadata": {"a": [1]}}]}, "invalid_body", 400),
        ({"documents": [{"name": "a", "content": "x", "metadata": {"a": 2**63}}]}, "invalid_body", 400),
        ({"documents": [{"name": "a", "content": "  "}]}, "document_unreadable", 422),
        ({"documents": [{"name": "a", "content": "x"}], "embedding_model": "no/such"}, "model_not_found", 404),
        ({}, "invalid_body", 400),
    ],
)
async def test_a_wrong_body_is_refused_and_makes_no_base(
    gateway: RunningGateway, body: Any, code: str, status: int
) -> None:
    asked = await ask(gateway, "POST", "/kb/refused/documents", body)
    assert (asked.status, asked.code) == (status, code), asked.body
    assert (await ask(gateway, "GET", "/kb/refused")).status == 404


async def test_what_cannot_be_read_is_told_by_document_and_the_others_are_found(gateway: RunningGateway) -> None:
    form = aiohttp.FormData()
    form.add_field("file", b"no PDF at all", filename="broken.pdf")
    form.add_field("file", b"x" * 200_001, filename="large.txt")
    form.add_field("file", b"This one is good.", filename="good.txt")
    form.add_field("file", pdf(["secret"], encrypted=True), filename="locked.pdf")
    asked = await ask(gateway, "POST", "/kb/partly/documents", data=form)
    assert asked.status == 200
    told = {each["name"]: each for each in asked.body["documents"]}
    assert told["good.txt"]["status"] == "added"
    assert told["broken.pdf"]["error"]["code"] == told["locked.pdf"]["error"]["code"] == "document_unreadable"
    assert told["large.txt"]["error"]["code"] == "document_too_large"
    assert [hit["name"] for hit in await search(gateway, "partly", "good")] == ["good.txt"]


async def test_a_request_of_nothing_but_bad_documents_is_an_error_that_names_them_all(gateway: RunningGateway) -> None:
    form = aiohttp.FormData()
    form.add_field("file", b"x" * 100_000_000, filename="hundred.txt")
    form.add_field("file", b"no PDF at all", filename="broken.pdf")
    asked = await ask(gateway, "POST", "/kb/bad/documents", data=form)
    assert (asked.status, asked.code) == (413, "document_too_large")
    assert [each["name"] for each in asked.body["error"]["documents"]] == ["hundred.txt", "broken.pdf"]
    assert (await ask(gateway, "GET", "/kb/bad")).status == 404


async def test_a_multipart_body_that_is_none_is_refused(gateway: RunningGateway) -> None:
    for headers in ({"Content-Type": "multipart/form-data"}, {"Content-Type": "multipart/form-data; boundary=x"}):
        async with gateway.session.post("/kb/bad/documents", data=b"garbage", headers=headers) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (400, "invalid_body")


FILE = b'Content-Disposition: form-data; name="f"; filename="a.txt"'
METADATA = b'Content-Disposition: form-data; name="metadata"'


@pytest.mark.parametrize(
    "part",
    [
        FILE + b"\r\nContent-Transfer-Encoding: base64\r\n\r\nabcde",
        FILE + b"\r\nContent-Transfer-Encoding: other\r\n\r\nabcde",
        b"no header\r\n\r\nabcde",
        METADATA + b'\r\n\r\n{"a": "\xff"}',
        METADATA + b'\r\n\r\n{"a": 123456789012345678901}',
    ],
    ids=["base64", "encoding", "header", "text", "number"],
)
async def test_a_part_that_cannot_be_read_is_refused(gateway: RunningGateway, part: bytes) -> None:
    body = b"--x\r\n" + part + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with gateway.session.post("/kb/bad/documents", data=body, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, "invalid_body")


async def test_a_type_that_is_no_ascii_is_none_and_the_file_is_read_by_its_name(gateway: RunningGateway) -> None:
    body = b"--x\r\n" + FILE + b"\r\nContent-Type: text/pl\xffain\r\n\r\nThe beam is stable.\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    async with gateway.session.post("/kb/typed/documents", data=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
    assert [hit["name"] for hit in await search(gateway, "typed", "beam")] == ["a.txt"]


async def test_the_routes_of_the_earlier_system_answer_in_its_shapes(gateway: RunningGateway) -> None:
    text = "A long text. " * 60
    await put(gateway, "older", {"a.txt": text, "b.txt": "Short."})
    assert "older" in (await ask(gateway, "GET", "/kb/list")).body["qdrant"]
    wanted = {"knowledge_base": "older", "embedding_model": "whatever", "use_opensearch": False}
    count = (await ask(gateway, "POST", "/kb/count", wanted)).body
    assert count["knowledge_base"] == "older"
    assert count["count"] == (await ask(gateway, "GET", "/kb/older")).body["chunks"]
    sample = (await ask(gateway, "POST", "/kb/sample", wanted)).body
    assert {"source", "page", "content_snippet", "content_length"} <= sample["documents"][0].keys()
    assert all(len(each["content_snippet"]) <= 300 for each in sample["documents"])
    docs = (await ask(gateway, "POST", "/kb/docs", wanted)).body
    assert docs["sources"].keys() == {"a.txt", "b.txt"}
    assert docs["total_chunks"] == len(docs["documents"]) == count["count"]


async def test_a_threshold_on_the_older_scale_says_so(gateway: RunningGateway) -> None:
    await put(gateway, "scale", {"a.txt": "The beam is stable.", "b.txt": "Bread is baked from flour."})
    query = "is the beam stable?"
    one = await search(gateway, "scale", query, score_threshold=0.5)
    older = await search(gateway, "scale", query, score_threshold=1.5, score_scale="cosine+1")
    assert [hit["name"] for hit in one] == [hit["name"] for hit in older] == ["a.txt"]
    refused = await ask(gateway, "POST", "/kb/scale/search", {"query": query, "score_threshold": 1.5})
    assert refused.code == "invalid_body"


async def test_a_search_is_narrowed_by_metadata(gateway: RunningGateway) -> None:
    documents = [
        {"name": f"{year}.txt", "content": f"The report of {year}.", "metadata": {"year": year}}
        for year in (2022, 2023)
    ]
    await ask(gateway, "POST", "/kb/years/documents", {"documents": documents})
    assert {hit["name"] for hit in await search(gateway, "years", "report", where={"year": 2022})} == {"2022.txt"}
    both = await search(gateway, "years", "report", where={"year": [2022, 2023, 2024]})
    assert len(both) == 2
    assert await search(gateway, "years", "report", where={"year": "2022' OR '1'='1"}) == []


async def test_an_index_is_made_anew_on_demand_while_the_old_one_answers(gateway: RunningGateway) -> None:
    await put(gateway, "anew", {f"{n}.txt": f"Document number {n}." for n in range(20)})
    asked = await ask(gateway, "POST", "/kb/anew/reindex")
    assert (asked.status, asked.body["name"]) == (202, "anew")
    assert len(await search(gateway, "anew", "document", limit=20)) == 20
    done = await gateway.wait_for_log("reindex_finished", kb="anew")
    assert done["documents"] == 20
    assert len(await search(gateway, "anew", "document", limit=20)) == 20
    said = (await ask(gateway, "GET", "/kb/anew")).body
    assert (said["chunks"], said["state"], said["reindex"]) == (20, "ready", None)


async def test_stored_is_told_before_found_for_who_does_not_wait(gateway: RunningGateway) -> None:
    added = await put(gateway, "later", {f"{n}.txt": f"Document number {n}." for n in range(40)}, "?wait=false")
    assert added.status in {200, 202}
    done = await gateway.wait_for_log("documents_indexed", kb="later", pending=0)
    assert done["chunks"] > 0
    assert (await ask(gateway, "GET", "/kb/later")).body["chunks"] == 40


async def test_what_was_acknowledged_survives_a_kill_and_is_found_after_the_restart(tmp_path: Path) -> None:
    documents = {f"{n}.txt": f"Entry {n}. " + "The shift was quiet. " * 200 for n in range(60)}
    async with serving(tmp_path) as first:
        await first.wait_for(MODEL, "ready", "loaded")
        added = await put(first, "log", documents, "?wait=false")
        assert added.body["counts"] == {"added": 60}
        await first.kill()
    async with serving(tmp_path) as second:
        await second.wait_for(MODEL, "ready", "loaded")
        state: dict[str, Any] = {}
        while state.get("pending", 1) or state["chunks"] < 60 * 4:
            state = (await ask(second, "GET", "/kb/log")).body
            assert state["documents"] == 60
        [best, *_] = await search(second, "log", "Entry 59.")
        assert best["name"] == "59.txt"
