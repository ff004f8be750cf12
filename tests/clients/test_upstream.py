"""A real upstream: `transformers serve` behind a gateway, asked in each way that there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.ask.test_asking import events, only
from tests.clients.asked import Step, Target, outcomes
from tests.clients.upstream import transformers_serve
from tests.running import RunningGateway

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="module")]


class Parts(NamedTuple):
    gateway: RunningGateway
    llm: str

    def body(self, **more: Any) -> dict[str, Any]:
        files = [{"name": "notes.txt", "content": "The beam is lost when the quadrupole trips."}]
        return {"query": "when?", "use_rag": False, "files": files, "llm_model": self.llm, "max_tokens": 12} | more


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Parts]:
    base = tmp_path_factory.mktemp("upstream")
    (base / "models").mkdir()
    async with transformers_serve(base) as (url, model):
        (base / "providers.toml").write_text(f'[served]\nbase_url = "{url}"\ncontext = 2048\n')
        options = ("--device=cpu", f"--providers={base / 'providers.toml'}")
        async with RunningGateway(base / "models", base / "state", *options) as gateway:
            yield Parts(gateway, f"served:{model}")


async def ask(parts: Parts, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with parts.gateway.session.post("/ask", json=body) as answer:
        return answer.status, await answer.json()


async def test_an_answer_is_the_same_whole_and_in_a_stream(parts: Parts) -> None:
    status, found = await ask(parts, parts.body(temperature=0))
    assert (status, found["finish_reason"], found["llm_model"]) == (200, "length", parts.llm)
    assert found["usage"]["completion_tokens"] == 12
    async with parts.gateway.session.post("/ask/stream", json=parts.body(temperature=0)) as answer:
        told = events(await answer.text())
    assert [event["type"] for event in told[-2:]] == ["complete", "end"]
    pieces = "".join(event["content"] for event in told if event["type"] == "token")
    assert pieces == only(told, "complete")["final_answer"] == found["answer"]


async def test_asks_in_parallel_are_all_answered(parts: Parts) -> None:
    found = await asyncio.gather(*(ask(parts, parts.body(temperature=0)) for _ in range(4)))
    assert [status for status, _ in found] == [200] * 4
    assert len({body["answer"] for _, body in found}) == 1


async def test_a_model_that_it_does_not_serve_is_refused_with_a_reason(parts: Parts) -> None:
    status, found = await ask(parts, parts.body(llm_model="served:nobody/knows"))
    assert (status, found["error"]["code"]) == (400, "provider_refused")
    assert "pinned" in found["error"]["message"]


async def test_openai_python_talks_with_it_through_the_gateway(parts: Parts, tmp_path: Path) -> None:
    target = Target(parts.gateway.url, parts.llm, "none")
    steps = [Step(way, target, "what holds the beam?") for way in ("chat", "chat_stream")]
    whole, pieces = [each["returned"] for each in await outcomes("openai-python", "openai_python", steps, tmp_path)]
    assert (whole["model"], whole["finish"]) == (parts.llm, "length")
    assert pieces["models"] == [parts.llm]
    assert len(pieces["pieces"]) > 1
    assert whole["content"].endswith("".join(pieces["pieces"])[-4:])
