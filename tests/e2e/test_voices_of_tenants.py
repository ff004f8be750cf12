"""Language models of tenants: nobody learns of another's, and what was said is charged to whom it was said."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
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


async def _until_quiet(events: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """What has come by now: that an operator has unloaded the base is the last of it."""
    async for line in events.content:
        yield line
        if b"event: generation_unloaded" in line:
            return


class Site:
    """`keys` of tenants a, b and root, and of c, who may have few tokens in a minute."""

    def __init__(self, base: Path) -> None:
        self.models, self.state, self.log = base / "models", base / "state", base / "audit.jsonl"
        path = language_model(self.models / "base/tiny", endings=False, max_position_embeddings=32_768)
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

    def audited(self, tenant: str) -> list[dict[str, Any]]:
        """The whole lines of the audit log so far."""
        written = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        lines = [json.loads(line) for line in written.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line.get("tenant") == tenant]

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
    async with asyncio.timeout(DEADLINE):
        while len(said := site.audited("a")) < len(ROUTES):  # what is written there is waited for by no answer
            await asyncio.sleep(GLANCE)
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
    body = asked | {"max_tokens": 30_000, "stream": True}
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
    assert 5 < spent < 30_000
    assert await site.used("b", "a/voice") == 0


async def test_a_question_is_charged_once_what_the_language_model_read_and_said(site: Site) -> None:
    body = {"llm_model": "huggingface:a/voice", "query": "who?", "use_rag": False, "max_tokens": 6}
    status, _, text = await site.ask("a", "/ask", **body)
    assert status == 200, text
    usage = json.loads(text)["usage"]
    assert usage["completion_tokens"] == 6
    assert await site.used("a", "a/voice") == usage["prompt_tokens"] + 6


async def test_a_generation_of_another_tenant_is_as_one_that_does_not_exist(site: Site) -> None:
    listed = {name: (await site.gateway.models())[f"huggingface:{name}"] for name in ("a/voice", "b/voice")}
    theirs, ours = listed["b/voice"]["generation"], listed["a/voice"]["generation"]
    assert (await site.ask("a", "/v1/completions", model=f"a/voice@{ours}", prompt="x", max_tokens=2))[0] == 200
    for model in ("a/voice", "base/tiny", "b/voice"):
        for route, body in ROUTES:
            status, _, text = await site.ask("a", route, model=f"{model}@{theirs}", **body)
            nobodys = await site.ask("a", route, model=f"{model}@{'0' * 12}", **body)
            assert status == 404
            assert re.sub(BY_CHANCE, "", text).replace(theirs, "0" * 12) == re.sub(BY_CHANCE, "", nobodys[2])
    for route in ("/models", "/models/llms", "/v1/models", "/api/tags", "/usage"):
        assert theirs not in await site.get("a", route)


async def test_what_a_tenant_says_and_what_it_is_charged_are_nobody_elses_to_see(site: Site) -> None:
    secret = "zebra"
    body = {"model": "base/tiny", "prompt": f"the {secret} stands in the ring", "max_tokens": 20}
    headers = {"X-API-Key": site.keys["a"]}
    async with site.gateway.session.get("/events", headers=headers) as events:
        await anext(aiter(events.content))  # it listens
        alone = await site.ask("b", "/v1/completions", **body)
        before = await site.used("b", "base/tiny")
        assert before == json.loads(alone[2])["usage"]["total_tokens"]
        # the same words by somebody else, beside each other: nothing is found ready, and nothing is mixed
        both = await asyncio.gather(
            *(site.ask(who, "/v1/completions", **body) for who in "abab"),
            *(site.ask(who, "/v1/completions", **body | {"model": f"{who}/voice"}) for who in "ab"),
        )
        answers = [json.loads(text) for _, _, text in both]
        assert {each["choices"][0]["text"] for each in answers[:4]} == {json.loads(alone[2])["choices"][0]["text"]}
        assert {json.dumps(each["usage"]) for each in answers} == {json.dumps(answers[0]["usage"])}
        assert len({each["choices"][0]["text"] for each in answers}) == 3
        assert await site.used("b", "base/tiny") == 3 * before
        assert await site.used("a", "base/tiny") == 2 * before
        usage = json.loads(await site.get("a", "/usage"))["usage"]
        assert {row["tenant"] for row in usage} == {"a"}
        assert {row["model"] for row in usage} == {"huggingface:base/tiny", "huggingface:a/voice"}
        for route in ("/models", "/models/llms", "/v1/models", "/api/tags", "/api/ps", "/usage"):
            told = await site.get("a", route)
            assert secret not in told
            assert "b/voice" not in told
        assert (await site.ask("root", "/models/base/tiny/unload"))[0] == 200
        heard = b"".join([chunk async for chunk in _until_quiet(events)])
        assert b"a/voice" in heard
        assert b"b/voice" not in heard
        assert secret.encode() not in heard
    assert secret not in json.dumps(site.gateway.log)
    assert secret not in site.log.read_text(encoding="utf-8")


async def test_a_limit_of_tokens_counts_those_that_were_said(site: Site) -> None:
    asked = {"model": "base/tiny", "prompt": "x", "max_tokens": 40}
    assert (await site.ask("c", "/v1/completions", **asked))[0] == 200
    status, headers, text = await site.ask("c", "/v1/completions", **asked)
    assert (status, json.loads(text)["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(headers["Retry-After"]) > 0
