"""Language models of tenants: nobody learns of another's, and what was said is charged to whom it was said."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.test_tenants import gateway_command
from tests.running import DEADLINE, GLANCE, RunningGateway
from tests.speaking import language_model, voice

TURNS = [{"role": "user", "content": "who keeps the keys?"}]
BY_CHANCE = r'"(id|created|created_at)":("[^"]*"|\d+)'
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": TURNS}),
    ("/v1/chat/completions", {"messages": TURNS, "stream": True}),
    ("/v1/completions", {"prompt": "x"}),
    ("/v1/completions", {"prompt": "x", "stream": True}),
    ("/api/chat", {"messages": TURNS}),
    ("/api/generate", {"prompt": "x", "stream": False}),
]


class Site:
    """`keys` of tenants a, b and root, and of c, who may have few tokens in a minute."""

    def __init__(self, base: Path) -> None:
        self.models, self.state, self.log = base / "models", base / "state", base / "audit.jsonl"
        path = language_model(self.models / "base/tiny", endings=False, max_position_embeddings=4096)
        for number, org in enumerate("ab"):
            voice(self.models / org / "voice", path, seed=number + 1)
        self.keys = {"root": self.key("root", "--role=admin")}
        for org in "ab":
            self.keys[org] = self.key(org, f"--namespaces={org},base")
        self.keys["c"] = self.key("c", "--namespaces=base", "--tokens-per-minute=30")

    def key(self, tenant: str, *words: str) -> str:
        return gateway_command("keys", "create", tenant, f"--state-dir={self.state}", *words)

    async def ask(self, who: str, route: str, **body: Any) -> tuple[int, dict[str, str], str]:
        """Status, headers and body."""
        headers = {"X-API-Key": self.keys[who]}
        async with self.gateway.session.post(route, json=body, headers=headers) as answer:
            return answer.status, dict(answer.headers), await answer.text()

    async def get(self, who: str, route: str) -> str:
        async with self.gateway.session.get(route, headers={"X-API-Key": self.keys[who]}) as answer:
            assert answer.status == 200
            return await answer.text()

    async def used(self, who: str, model: str) -> int:
        """Tokens that the tenant has used of the model, as it is told."""
        rows = json.loads(await self.get(who, "/usage"))["usage"]
        return sum(row["tokens"] for row in rows if row["model"] == f"huggingface:{model}" and row["tenant"] == who)


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    found = Site(tmp_path)
    found.gateway = RunningGateway(found.models, found.state, "--device=cpu", f"--audit-log={found.log}")
    found.gateway.headers = {"X-API-Key": found.keys["root"]}
    async with found.gateway:
        for name in ("base/tiny", "a/voice", "b/voice"):
            await found.gateway.wait_for(f"huggingface:{name}", "ready", "loaded")
        yield found


async def test_a_voice_of_another_tenant_is_as_one_that_does_not_exist(site: Site) -> None:
    for route in ("/v1/models", "/models/llms", "/models", "/api/tags"):
        listed = await site.get("a", route)
        assert "a/voice" in listed
        assert "b/voice" not in listed
    assert (await site.ask("b", "/v1/completions", model="b/voice", prompt="x", max_tokens=2))[0] == 200
    for route, body in ROUTES:
        for spelling in ("b/voice", "huggingface:b/voice"):
            status, _, theirs = await site.ask("a", route, model=spelling, **body)
            nobodys = await site.ask("a", route, model=spelling.replace("b/voice", "x/voice"), **body)
            assert status == 404
            assert (status, theirs) == (nobodys[0], re.sub("x([/_])voice", r"b\1voice", nobodys[2])), route
    assert await site.used("a", "b/voice") == 0


async def test_what_was_said_is_charged_to_whom_it_was_said_and_stands_in_the_audit_log(site: Site) -> None:
    spent = 0
    for route, body in ROUTES:
        limit = {"options": {"num_predict": 6}} if route.startswith("/api") else {"max_tokens": 6}
        status, headers, text = await site.ask("a", route, model="a/voice", **body, **limit)
        assert status == 200, text
        assert headers["X-Model"] == "huggingface:a/voice"
        assert re.fullmatch("[0-9a-f]{12,}", headers["X-Model-Generation"])
        before, spent = spent, await site.used("a", "a/voice")
        assert spent - before >= 6 + 1
        if usage := re.search(r'"total_tokens":(\d+)', text):
            assert spent - before == int(usage[1])
    assert await site.used("b", "a/voice") == await site.used("b", "b/voice") == 0
    lines = [json.loads(line) for line in site.log.read_text(encoding="utf-8").splitlines()]
    said = [line for line in lines if line.get("tenant") == "a"]
    assert {line["model"] for line in said} == {"a/voice"}
    assert sum(line["tokens"] for line in said) == spent
    metrics = await site.get("root", "/metrics")
    assert f'dropgate_said_tokens_total{{model="a/voice"}} {6.0 * len(ROUTES)}' in metrics
    assert f'dropgate_first_token_seconds_count{{model="a/voice"}} {float(len(ROUTES))}' in metrics
    assert 'dropgate_model_rows{device="cpu",model="base/tiny"}' in metrics


@pytest.mark.parametrize(
    ("route", "asked"),
    [
        ("/v1/completions", {"model": "a/voice", "prompt": "the beam"}),
        ("/v1/chat/completions", {"model": "a/voice", "messages": TURNS}),
        (
            "/ask/stream",
            {"llm_model": "huggingface:a/voice", "query": "who?", "use_rag": False, "partial_answer": False},
        ),
    ],
)
async def test_a_client_that_leaves_has_used_what_was_said_until_then(
    site: Site, route: str, asked: dict[str, Any]
) -> None:
    body = asked | {"max_tokens": 4000, "stream": True}
    told = 0
    async with site.gateway.session.post(route, json=body, headers={"X-API-Key": site.keys["a"]}) as answer:
        async for line in answer.content:
            told += b'"text":' in line or b'"content":' in line
            if told == 5:
                break
        answer.close()
    async with asyncio.timeout(DEADLINE):
        while not (spent := await site.used("a", "a/voice")):
            await asyncio.sleep(GLANCE)
    assert 5 < spent < 4000
    assert await site.used("b", "a/voice") == 0


async def test_a_question_is_charged_once_what_the_language_model_read_and_said(site: Site) -> None:
    body = {"llm_model": "huggingface:a/voice", "query": "who?", "use_rag": False, "max_tokens": 6}
    status, _, text = await site.ask("a", "/ask", **body)
    assert status == 200, text
    usage = json.loads(text)["usage"]
    assert usage["completion_tokens"] == 6
    assert await site.used("a", "a/voice") == usage["prompt_tokens"] + 6


async def test_a_limit_of_tokens_counts_those_that_were_said(site: Site) -> None:
    asked = {"model": "base/tiny", "prompt": "x", "max_tokens": 40}
    assert (await site.ask("c", "/v1/completions", **asked))[0] == 200
    status, headers, text = await site.ask("c", "/v1/completions", **asked)
    assert (status, json.loads(text)["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(headers["Retry-After"]) > 0
