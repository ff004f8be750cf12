"""Two gateways that run: one that wants a key and embeds, and one whose queue is full for good."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from tests.clients.asked import Target
from tests.e2e.clients import FaultyGateway
from tests.engine.faulty_host import HANGING
from tests.running import RunningGateway

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
RERANKER = "rerankers/small"
MOST_INPUTS = 8
TEXTS = [
    "The beam is lost when the quadrupole trips.",
    "A storage ring keeps electrons for hours,\nand gives off light.",
    "Où est la lumière ? 光はどこ",
    "orbit correction " * 200,  # more than the model reads: it is cut, as sentence-transformers does
    "x",
]


@pytest.fixture(scope="session")
def expected(minilm: str) -> npt.NDArray[np.float32]:
    """The vectors of TEXTS, as sentence-transformers makes them."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(minilm, device="cpu")
    return np.asarray(model.encode(TEXTS, normalize_embeddings=True), dtype=np.float32)


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    root = tmp_path_factory.mktemp("clients") / "models"
    shutil.copytree(minilm, root / MODEL)
    reranker(root / RERANKER, minilm)
    return root


def reranker(path: Path, tokenizer: str) -> None:
    """A small cross-encoder whose scores lie apart."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(5)
    config = BertConfig(vocab_size=30522, num_labels=1, initializer_range=0.3, **sizes)
    BertForSequenceClassification(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(tokenizer, model_max_length=128).save_pretrained(path)


def key(state: Path, name: str, *options: str) -> str:
    """A new key, as an operator makes it."""
    command = [sys.executable, "-m", "gateway", "keys", "create", name, f"--state-dir={state}", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="session")
def keys(volume: Path) -> dict[str, str]:
    """`operate` may do all that the clients can ask for; `poor` may have one token in a minute."""
    state = volume.parent / "state"
    return {
        "operate": key(state, "clients", "--role=operate"),
        "poor": key(state, "poor", "--tokens-per-minute=1"),
    }


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(volume: Path, keys: dict[str, str]) -> AsyncIterator[RunningGateway]:
    started = RunningGateway(volume, volume.parent / "state", "--device=cpu", f"--max-inputs={MOST_INPUTS}")
    started.headers = {"Authorization": f"Bearer {keys['operate']}"}
    async with started as running:
        for model in (MODEL, RERANKER):
            await running.wait_for(f"huggingface:{model}", "ready", "loaded")
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def full(volume: Path) -> AsyncIterator[RunningGateway]:
    """A device call of it never ends, and one text waits: that is all that may wait, so all others are refused."""
    options = ("--device=cpu", "--max-queue-tokens=1", "--request-timeout=3600", "--hang-timeout=3600")
    async with FaultyGateway(volume, volume.parent / "state-full", *options, "--drain-timeout=0") as running:
        for model in (MODEL, RERANKER):
            await running.wait_for(f"huggingface:{model}", "ready", "loaded")
        async with aiohttp.ClientSession(running.url, timeout=aiohttp.ClientTimeout(total=None)) as patient:
            hanging = asyncio.create_task(ask(patient, "please hang"))
            await running.wait_for_log("host_output", line=HANGING)
            waiting = [asyncio.create_task(ask(patient, "a text that waits")) for _ in range(2)]
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert [task.result() for task in done] == [429]
            yield running
            for task in (hanging, *waiting):
                task.cancel()


async def ask(session: aiohttp.ClientSession, text: str) -> int:
    async with session.post("/embed", json={"inputs": text, "model": MODEL}) as answer:
        return answer.status


@pytest.fixture(scope="session")
def target(gateway: RunningGateway, keys: dict[str, str]) -> Target:
    return Target(gateway.url, MODEL, keys["operate"])
