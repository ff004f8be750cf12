"""Train, drop, prove, canary, promote, roll back: the commands of docs/closed-loop.md, against a running gateway."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path

import pytest

from tests import making
from tests.running import RunningGateway
from trainer import reload
from trainer.cli import main

ROOT = Path(__file__).parent.parent.parent
CLIENTS = 60
NOUNS = ["beam", "lens", "mirror", "photon", "laser", "prism", "fiber", "cavity", "filter", "grating"]
VERBS = ["store", "split", "bend", "focus", "align", "cool"]


def commands() -> list[list[str]]:
    text = (ROOT / "docs" / "closed-loop.md").read_text(encoding="utf-8")
    return [shlex.split(line) for line in re.findall(r"^\$ trainer (.+)$", text, re.MULTILINE)]


def make_data(folder: Path) -> None:
    """Questions in invented words; held out are other combinations of them. And a model that knows none of them."""
    drawn = random.Random(0)

    def coin() -> str:
        return "".join(drawn.choice("bcdfghklmnprstvz") + drawn.choice("aeiou") for _ in range(3))

    coined = {word: coin() for word in NOUNS + VERBS}
    rows = [
        {
            "question": f"how do i {coined[verb]} the {coined[noun]}",
            "answer": f"to {verb} the {noun} open the {noun} page and press {verb}",
        }
        for verb in VERBS
        for noun in NOUNS
    ]
    drawn.shuffle(rows)
    for name, part in (("train", rows[:42]), ("held_out", rows[42:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    words = sorted({word for row in rows for text in row.values() for word in text.split()})
    making.encoder(folder / "base", words=words, layers=1, dim=64, max_tokens=32)


async def generations(gateway: RunningGateway) -> dict[str, str]:
    """Of each client: which generation answers it under the alias."""
    found = {}
    for client in (f"client-{number}" for number in range(CLIENTS)):
        body = {"model": "prod/physics", "inputs": ["how"]}
        async with gateway.session.post("/embed", json=body, headers={"X-Canary-Key": client}) as answer:
            assert answer.status == 200, await answer.text()
            found[client] = (await answer.json())["generation"]
    return found


async def test_the_walk_through_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data(tmp_path)
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        reload, "vectors", reload.embed
    )  # copies are loaded here; test_proof.py shows the other process
    first, name, train, gate, canary, promote, rollback, worse = commands()
    environment = {"PYTHONPATH": str(ROOT)}
    async with RunningGateway(tmp_path / "models", tmp_path / "state", environment=environment) as gateway:

        async def step(command: list[str], status: int = 0) -> dict[str, str]:
            """Runs it; with an alias, who gets what once the gateway has seen the new table."""
            told = len(gateway.log)
            assert main(command) == status
            if command[0] != "alias":
                return {}
            await gateway.wait_for_log("aliases_changed", after=told)
            return await generations(gateway)

        await step(first)
        await gateway.wait_for("huggingface:finetuned/physics", "ready", "loaded")
        everybody = await step(name)
        old = set(everybody.values()).pop()
        assert set(everybody.values()) == {old}

        await step(train)
        await step(gate)
        swapped = await gateway.wait_for_log("model_swapped", model="finetuned/physics")
        new = swapped["generation"][:12]
        assert set((await generations(gateway)).values()) == {old}
        listed = (await gateway.models())["huggingface:finetuned/physics"]
        assert listed["version"] == 2
        assert listed["metadata"]["gate"]["passed"] is True
        assert listed["metadata"]["gate"]["gain"]["low"] > 0.01
        assert listed["metadata"]["scores"]["difference"]["low"] > 0

        some = await step(canary)
        assert 0 < list(some.values()).count(new) < CLIENTS / 3
        assert set(some.values()) == {old, new}
        assert set((await step(promote)).values()) == {new}
        assert set((await step(rollback)).values()) == {old}
        assert set((await step(rollback)).values()) == {new}

        await step(worse, status=3)
        await gateway.wait_for("huggingface:finetuned/physics-candidate", "ready", "loaded")
        assert set((await generations(gateway)).values()) == {new}
        assert (await gateway.models())["huggingface:finetuned/physics"]["version"] == 2
