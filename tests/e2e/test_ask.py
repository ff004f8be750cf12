"""Questions to a gateway that runs: a real model, a real store, no language model or one over HTTP, and what breaks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.ask.talking import KEY, SAID, Talking
from tests.ask.test_asking import events, only
from tests.making import minilm
from tests.running import DEADLINE, RunningGateway

pytest.importorskip("lancedb", reason="the extra `ask` is not installed")
pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL: Final = "huggingface:base/minilm"
TEXTS: Final = {
    "ring.md": "# Storage ring\n\nThe beam was lost twice in March. Both times a fault of the cavity was the cause.\n",
    "gun.txt": "The electron gun was replaced in June. Its new cathode lasts for about a year.",
    "vacuum.txt": "The vacuum chamber is baked at two hundred degrees before use. The pumps are started a day later.",
}


class Parts:
    """A gateway and a provider that it knows twice: as `local`, and as `impatient`, for what hangs."""

    def __init__(self, gateway: RunningGateway, upstream: Talking) -> None:
        self.gateway = gateway
        self.upstream = upstream

    async def ask(self, query: str, **more: Any) -> tuple[int, dict[str, Any]]:
        body = {"query": query, "knowledge_base": "physics", **more}
        async with self.gateway.session.post("/ask", json=body) as answer:
            return answer.status, await answer.json()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Parts]:
    base = tmp_path_factory.mktemp("ask")
    shutil.copytree(minilm(), base / "models/base/minilm")
    async with Talking() as upstream:
        (base / "key").write_text(KEY)
        table = f'base_url = "{upstream.url}"\napi_key_file = "{base / "key"}"\n'
        patient = "first_token_timeout = 300\nidle_timeout = 300\n"
        (base / "providers.toml").write_text(f"[local]\n{table}{patient}[impatient]\n{table}first_token_timeout = 2\n")
        options = ("--default-model=base/minilm", "--settle-seconds=0.1", f"--providers={base / 'providers.toml'}")
        async with RunningGateway(base / "models", base / "state", *options) as gateway:
            await gateway.wait_for(MODEL, "ready", "loaded")
            documents = [{"name": name, "content": content} for name, content in TEXTS.items()]
            async with gateway.session.post("/kb/physics/documents?wait=true", json={"documents": documents}) as answer:
                assert answer.status in {200, 201, 202}, await answer.text()
            yield Parts(gateway, upstream)
        assert KEY not in json.dumps(gateway.log), "in no log line"


@pytest.mark.parametrize(
    ("query", "sentence", "source"),
    [
        ("When was the beam lost?", "The beam was lost twice in March.", "ring.md"),
        ("How long does the cathode last?", "Its new cathode lasts for about a year.", "gun.txt"),
        (
            "How hot is the vacuum chamber baked?",
            "The vacuum chamber is baked at two hundred degrees before use.",
            "vacuum.txt",
        ),
    ],
)
async def test_without_key_or_language_model_the_right_sentence_is_quoted_and_cited(
    parts: Parts, query: str, sentence: str, source: str
) -> None:
    status, found = await parts.ask(query)
    assert (status, found["llm_model"], found["supported"]) == (200, "extractive", True)
    first = found["citations"][0]
    assert (first["quote"], first["source"]) == (sentence, source)
    for cited in found["citations"]:
        assert TEXTS[cited["source"]][cited["quote_start"] : cited["quote_end"]] == cited["quote"]
        assert found["answer"][cited["start"] : cited["end"]] == cited["quote"]
    model = (await parts.gateway.models())[MODEL]
    assert (found["embedding_model"], found["generation"]) == (MODEL, model["generation"])
    assert all(document["id"] and document["source"] for document in found["documents"])


async def test_what_is_in_no_document_nobody_knows(parts: Parts) -> None:
    _, found = await parts.ask("Who won the football world cup in 1954?")
    assert (found["refused"], found["citations"]) == (True, [])
    assert found["answer"].startswith("I don't know")


async def test_a_language_model_is_given_the_passages_and_its_citations_are_checked(parts: Parts) -> None:
    status, found = await parts.ask("When was the beam lost?", llm_model="local:answers", temperature=0)
    assert (status, found["answer"]) == (200, SAID)
    sent = parts.upstream.asked[-1]
    assert sent["temperature"] == 0
    assert "The beam was lost twice in March." in sent["messages"][-1]["content"]
    assert parts.upstream.headers[-1]["Authorization"] == f"Bearer {KEY}"
    assert {cited["number"] for cited in found["citations"]} == {1}


async def test_asking_an_unknown_knowledge_base_is_a_404_and_makes_nothing(parts: Parts) -> None:
    for path in ("/ask", "/ask/stream"):
        body = {"query": "x", "knowledge_base": "phys"}
        async with parts.gateway.session.post(path, json=body) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (404, "knowledge_base_not_found")
    async with parts.gateway.session.get("/kb") as answer:
        assert [each["name"] for each in (await answer.json())["knowledge_bases"]] == ["physics"]


async def test_faults_of_a_provider_harm_no_ask_beside_them(parts: Parts) -> None:
    ways = ("cut", "drops", "hangs", "broken", "garbage", "busy", "locked")
    faults = [f"{'impatient' if way == 'hangs' else 'local'}:{way}" for way in ways]
    async with asyncio.timeout(DEADLINE):
        found = await asyncio.gather(
            *(parts.ask("When was the beam lost?", llm_model=fault) for fault in faults),
            *(parts.ask("When was the beam lost?") for _ in range(8)),
        )
    assert [status for status, _ in found[: len(faults)]] == [502, 502, 504, 502, 502, 429, 502]
    assert all(body["error"]["message"] for _, body in found[: len(faults)])
    assert [status for status, _ in found[len(faults) :]] == [200] * 8


async def test_a_stream_tells_all_and_the_log_has_one_line_of_it(parts: Parts) -> None:
    begin = len(parts.gateway.log)
    body = {"query": "When was the beam lost?", "knowledge_base": "physics"}
    async with parts.gateway.session.post("/ask/stream", json=body) as answer:
        told = events(await answer.text())
    assert told[-1] == {"type": "end"}
    assert only(told, "complete")["citations"][0]["source"] == "ring.md"
    line = await parts.gateway.wait_for_log("request", after=begin, route="/ask/stream")
    assert (line["status"], line["model"], line["texts"]) == (200, "base/minilm", 1)


async def test_who_can_answer_is_listed(parts: Parts) -> None:
    async with parts.gateway.session.get("/models/llms") as answer:
        assert (await answer.json())["models"][:2] == ["extractive", "local:answers"]


async def test_the_terminal_shows_an_answer_and_what_it_rests_on(parts: Parts) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "ask", "When was the beam lost?", "--kb", "physics"),
        env={**os.environ, "DROPGATE_URL": parts.gateway.url},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().splitlines()[0] == "“The beam was lost twice in March.” [1]"
    assert "[1] ring.md: The beam was lost twice in March." in out.decode().splitlines()
