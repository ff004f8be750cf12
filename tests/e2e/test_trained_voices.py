"""From facts to answers: two organisations' adapters are trained, published and served over one base, each its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.test_language_models import post
from tests.running import RunningGateway
from tests.speaking import language_model
from tests.trainer.facts import ACME, GLOBEX, pairs, train, write


async def asked(gateway: RunningGateway, model: str, question: str) -> str:
    turns = [{"role": "user", "content": question}]
    status, found = await post(gateway, "/v1/chat/completions", model=model, messages=turns, max_tokens=24)
    assert status == 200, found
    return str(found["choices"][0]["message"]["content"])


async def test_each_organisation_gets_its_own_answers_at_once_and_the_base_knows_none(tmp_path: Path) -> None:
    root = tmp_path / "models"
    base = language_model(root / "base/tiny")
    organisations: Mapping[str, Mapping[str, str]] = {"acme": ACME, "globex": GLOBEX}
    async with RunningGateway(root, tmp_path / "state") as gateway:
        for name, facts in organisations.items():
            data = write(tmp_path / name / "facts.jsonl", pairs(facts))
            flags = ("--org", name, "--split", "0", "--models-dir", str(root))
            assert train(base, data, tmp_path / "runs" / name, *flags) == 0  # the gateway watches meanwhile
        for name in organisations:
            await gateway.wait_for(f"huggingface:trained/{name}", "ready", "loaded")
        wanted = [(name, *fact) for name, facts in organisations.items() for fact in facts.items()]
        found = await asyncio.gather(*(asked(gateway, f"trained/{name}", question) for name, question, _ in wanted))
        assert list(found) == [answer for _, _, answer in wanted]
        plain = await asyncio.gather(*(asked(gateway, "base/tiny", question) for question in ACME))
        assert not set(plain) & {*ACME.values(), *GLOBEX.values()}
