"""A running gateway's knowledge base follows its model, over a swap, a kill and a rollback."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests import making
from tests.e2e.clients import drop
from tests.running import DEADLINE, GLANCE, RunningGateway

pytest.importorskip("lancedb")

TEXT = "the quick brown fox"
NAMES = [f"d{number}.txt" for number in range(60)]


async def post(gateway: RunningGateway, path: str, body: Any = None) -> dict[str, Any]:
    async with gateway.session.post(path, json=body) as answer:
        found: dict[str, Any] = await answer.json()
        assert answer.status == 200, found
        return found


async def found_itself(gateway: RunningGateway) -> str:
    """The generation that answered; fails unless the text was found by a vector of that same one."""
    found = await post(gateway, "/kb/papers/search", {"query": TEXT, "limit": 1})
    (hit,) = found["hits"]
    assert hit["text"].strip() == TEXT
    assert hit["score"] > 0.999
    return str(found["generation"])


async def test_a_swap_a_kill_in_the_middle_and_a_rollback_each_end_with_the_pair_that_is_right(tmp_path: Path) -> None:
    made = [making.encoder(tmp_path / f"made{seed}", seed=seed) for seed in range(2)]
    target = tmp_path / "models/finetuned/m"
    drop(made[0], target)
    options = (tmp_path / "models", tmp_path / "state", "--device=cpu", "--settle-seconds=0.2")
    async with RunningGateway(*options) as gateway:
        documents = [{"name": name, "content": f"{name} is of number {place}"} for place, name in enumerate(NAMES)]
        documents.append({"name": "fox.txt", "content": TEXT})
        await post(gateway, "/kb/papers/documents", {"documents": documents, "embedding_model": "finetuned/m"})
        first = await found_itself(gateway)
        drop(made[1], target)
        await gateway.wait_for_log("reindex_started")
        await gateway.kill()
    async with RunningGateway(*options) as gateway:
        async with asyncio.timeout(DEADLINE):
            while await found_itself(gateway) == first:
                await asyncio.sleep(GLANCE)
        await post(gateway, "/models/finetuned/m/rollback")
        await gateway.wait_for_log("reindex_finished", generation=first)
        assert await found_itself(gateway) == first
        assert [each["kept"] for each in gateway.log if each.get("event") == "reindex_started"][-1] is True
