"""Two gateways that run: one that embeds, for those who have a key, and one whose queue is full for good."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from tests.clients.asked import Target
from tests.e2e.clients import FaultyGateway
from tests.engine.faulty_host import HANGING
from tests.running import RunningGateway

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
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
    return root


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(volume: Path) -> AsyncIterator[RunningGateway]:
    options = ("--device=cpu", f"--max-inputs={MOST_INPUTS}")
    async with RunningGateway(volume, volume.parent / "state", *options) as running:
        await running.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def full(volume: Path) -> AsyncIterator[RunningGateway]:
    """A device call of it never ends, and one text waits: that is all that may wait, so all others are refused."""
    options = ("--device=cpu", "--max-queue-tokens=1", "--request-timeout=3600", "--hang-timeout=3600")
    async with FaultyGateway(volume, volume.parent / "state-full", *options, "--drain-timeout=0") as running:
        await running.wait_for(f"huggingface:{MODEL}", "ready", "loaded")
        hanging = asyncio.create_task(running.try_embed(["please hang"], MODEL))
        await running.wait_for_log("host_output", line=HANGING)
        waiting = [asyncio.create_task(running.try_embed(["a text that waits"], MODEL)) for _ in range(2)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result()[0] for task in done] == [429]
        yield running
        for task in (hanging, *waiting):
            task.cancel()


@pytest.fixture(scope="session")
def target(gateway: RunningGateway) -> Target:
    return Target(gateway.url, MODEL, "no-key-is-needed")
