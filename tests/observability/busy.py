"""A gateway that is at work: everything that a panel shows has happened, and goes on happening."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from gateway.tenants.keys import Key, KeyFile, digest, new_secret
from tests import making
from tests.running import RunningGateway
from tests.speaking import language_model

MODELS: Final = ("finetuned/a", "finetuned/b")
MISSING: Final = "finetuned/missing"
ALIAS: Final = "prod/m"
SPEAKER: Final = "finetuned/speaker"
BROKEN: Final = "finetuned/broken"


def volume(base: Path) -> Path:
    """Two models, one that is rejected, one that is half copied, and an alias with a canary."""
    root = base / "models"
    for number, model in enumerate(MODELS):
        making.encoder(root / model, seed=number)
    shutil.copytree(root / MODELS[0], root / BROKEN)
    (root / BROKEN / "config.json").write_text("{", encoding="utf-8")
    lines = ["[aliases]", f'"{ALIAS}" = {{ to = "{MODELS[0]}", canary = "{MODELS[1]}", share = 0.5 }}', ""]
    (root / "aliases.toml").write_text("\n".join(lines), encoding="utf-8")
    return root


def operator(state: Path) -> str:
    """A key that may read the metrics, so that there is a tenant to count for."""
    secret = new_secret("0" * 12)
    made = {"id": "0" * 12, "name": "ops", "tenant": "ops", "sha256": digest(secret), "created": 1.0}
    key = msgspec.convert(made | {"role": "operate", "namespaces": ["*"]}, Key)
    state.mkdir(parents=True, exist_ok=True)
    KeyFile(str(state / "keys.json")).change(lambda keys: (*keys, key))
    return secret


@asynccontextmanager
async def busy_gateway(base: Path) -> AsyncIterator[RunningGateway]:
    """Room for two of three models, which are asked in turn, so that each evicts another."""
    root, secret = volume(base), operator(base / "state")
    language_model(root / SPEAKER)
    options = ("--device=cpu", "--max-loaded-models=2", "--compute-threads=1", "--scan-interval=1")
    running = RunningGateway(root, base / "state", *options)
    running.headers = {"X-API-Key": secret}
    async with running as gateway:
        await gateway.wait_for(f"huggingface:{BROKEN}", "rejected")
        await gateway.wait_for_log("aliases_changed")
        yield gateway


async def work(gateway: RunningGateway) -> None:
    """One round of requests; some are refused."""
    for model in (*MODELS, ALIAS, MISSING):
        await gateway.try_embed(["the beam of the ring", "alpha"], model)
    await say(gateway)
    async with asyncio.TaskGroup() as group:
        for client in range(4):
            group.create_task(_as_client(gateway, str(client)))


async def say(gateway: RunningGateway) -> None:
    """Has the language model loaded, and speak."""
    said = {"model": SPEAKER, "prompt": "the beam is stored", "max_tokens": 4}
    async with gateway.session.post("/v1/completions", json=said) as answer:
        assert answer.status == 200, await answer.text()


async def _as_client(gateway: RunningGateway, key: str) -> None:
    headers = {"X-Canary-Key": key}
    async with gateway.session.post("/embed", json={"inputs": ["beta"], "model": ALIAS}, headers=headers) as answer:
        await answer.read()


def heal(root: Path) -> None:
    """The directory that was rejected, made whole."""
    shutil.copy(root / MODELS[0] / "config.json", root / BROKEN / "config.fresh")
    os.rename(root / BROKEN / "config.fresh", root / BROKEN / "config.json")
