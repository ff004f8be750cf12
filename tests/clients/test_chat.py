"""openai-python, unchanged, talks with a provider through a gateway: whole, in a stream, and when things go wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.ask.talking import KEY, SAID, WORDS, Talking
from tests.clients.asked import Step, Target, outcomes
from tests.running import RunningGateway

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    base = tmp_path_factory.mktemp("chat")
    (base / "models").mkdir()
    async with Talking() as upstream:
        (base / "key").write_text(KEY)
        table = f'[local]\nbase_url = "{upstream.url}"\napi_key_file = "{base / "key"}"\n'
        (base / "providers.toml").write_text(table)
        options = ("--device=cpu", f"--providers={base / 'providers.toml'}")
        async with RunningGateway(base / "models", base / "state", *options) as running:
            yield running


async def talk(gateway: RunningGateway, home: Path, *asked: tuple[str, str]) -> list[dict[str, Any]]:
    steps = [Step(way, Target(gateway.url, model, "none"), "what holds the beam?") for way, model in asked]
    return await outcomes("openai-python", "openai_python", steps, home)


async def test_an_answer_comes_whole_and_in_pieces(gateway: RunningGateway, tmp_path: Path) -> None:
    whole, pieces, undone = await talk(
        gateway, tmp_path, ("chat", "local:answers"), ("chat_stream", "local:answers"), ("chat_stream", "local:no-done")
    )
    assert whole["returned"] == {"model": "local:answers", "content": SAID, "finish": "stop", "tokens": 12}
    assert pieces["returned"] == {"models": ["local:answers"], "pieces": list(WORDS), "finish": "stop"}
    assert undone["returned"]["pieces"] == list(WORDS)


async def test_what_goes_wrong_is_an_exception_of_its_own(gateway: RunningGateway, tmp_path: Path) -> None:
    ways = {
        ("chat", "nobody:x"): ("openai.NotFoundError", 404),
        ("chat", "local:unheard-of"): ("openai.NotFoundError", 404),
        ("chat", "local:busy"): ("openai.RateLimitError", 429),
        ("chat", "local:refuses"): ("openai.BadRequestError", 400),
        ("chat", "local:vanishes"): ("openai.InternalServerError", 502),
        ("chat_stream", "local:busy"): ("openai.RateLimitError", 429),
        ("chat_stream", "local:cut"): ("openai.APIError", None),
        ("chat_stream", "local:fails-inside"): ("openai.APIError", None),
    }
    found = await talk(gateway, tmp_path, *ways)
    assert [(each["raised"][0], each["status"]) for each in found] == list(ways.values())
    assert all(KEY not in each["says"] for each in found)
    assert "cut off" in found[-2]["says"]
