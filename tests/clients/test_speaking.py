"""openai-python and ollama-python, unchanged, talk with a language model on the volume."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.clients.asked import Step, Target, outcomes
from tests.e2e.test_language_models import TINY, rendered, said_by
from tests.e2e.test_logprobs import check, expected
from tests.running import RunningGateway
from tests.speaking import language_model

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="module")]
ASKED = "what holds the beam?"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    base = tmp_path_factory.mktemp("speaking")
    language_model(base / "models/base/tiny", endings=False)
    async with RunningGateway(base / "models", base / "state", "--device=cpu") as running:
        await running.wait_for(TINY, "ready", "loaded")
        running.path = str(base / "models/base/tiny")  # type: ignore[attr-defined]
        yield running


async def talk(gateway: RunningGateway, home: Path, client: str, *asked: tuple[str, str, str]) -> list[dict[str, Any]]:
    steps = [Step(way, Target(gateway.url, model, "none"), text) for way, model, text in asked]
    return await outcomes(client, client.replace("-", "_"), steps, home)


async def test_openais_client_reads_answers_whole_in_pieces_and_raw(gateway: RunningGateway, tmp_path: Path) -> None:
    ways = ("chat", "chat_stream", "completion", "completion_stream", "raw")
    chat, pieces, completion, stream, raw = [
        each["returned"]
        for each in await talk(gateway, tmp_path, "openai-python", *((way, "base/tiny", ASKED) for way in ways))
    ]
    path = gateway.path  # type: ignore[attr-defined]
    turn, text = said_by(path, rendered(ASKED), 8), said_by(path, ASKED, 8)
    assert (chat["content"], chat["finish"]) == (turn, "length")
    assert ("".join(pieces["pieces"]), pieces["finish"]) == (turn, "length")
    assert (completion["text"], completion["finish"], completion["completion_tokens"]) == (text, "length", 8)
    assert stream == {"text": text, "finish": "length", "usage": True}
    assert raw == {"status": 200, "speaker": TINY, "content": turn}


async def test_openais_client_reads_how_likely_tokens_were(gateway: RunningGateway, tmp_path: Path) -> None:
    chat, text = [
        each["returned"]
        for each in await talk(
            gateway, tmp_path, "openai-python", ("likely", "base/tiny", ASKED), ("likely_text", "base/tiny", ASKED)
        )
    ]
    path = gateway.path  # type: ignore[attr-defined]
    check(path, chat["tokens"], expected(path, rendered(ASKED), 8, 2))
    assert chat["same"]
    assert text["token_logprobs"] == pytest.approx([each[1] for each in expected(path, ASKED, 8, 2)], abs=1e-4)
    assert {name: len(values) for name, values in text.items()} == dict.fromkeys(
        ("text_offset", "token_logprobs", "tokens", "top_logprobs"), 8
    )


async def test_openais_client_raises_its_own_exceptions(gateway: RunningGateway, tmp_path: Path) -> None:
    found = await talk(
        gateway,
        tmp_path,
        "openai-python",
        ("chat", "base/none", ASKED),
        ("chat", "base/tiny", "x " * 300),
        ("chat_stream", "base/tiny", "x " * 300),
        ("refused", "base/tiny", ASKED),
    )
    assert [(each["raised"][0], each["status"]) for each in found] == [
        ("openai.NotFoundError", 404),
        ("openai.BadRequestError", 400),
        ("openai.BadRequestError", 400),
        ("openai.BadRequestError", 400),
    ]
    assert "n can only be 1" in found[-1]["says"]


async def test_ollamas_client_chats_and_generates(gateway: RunningGateway, tmp_path: Path) -> None:
    chat, generated = [
        each["returned"]
        for each in await talk(
            gateway, tmp_path, "ollama-python", ("chat", "base/tiny", ASKED), ("generate", "base/tiny", ASKED)
        )
    ]
    path = gateway.path  # type: ignore[attr-defined]
    want = said_by(path, rendered(ASKED), 8)
    assert chat == {"content": want, "pieces": want, "reasons": ["length"] * 2, "tokens": [8] * 2}
    assert generated == {"content": said_by(path, ASKED, 8), "pieces": said_by(path, ASKED, 8)}
