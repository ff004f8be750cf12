"""One gateway for the tests of every protocol, on a volume of small models; none of them changes what is there."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests import making
from tests.running import DEADLINE, RunningGateway

PROMPTS = {"query": "query: ", "passage": "passage: "}
ALIASES = '[aliases]\n"prod/search" = "finetuned/physics"\n'


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, minilm: str) -> Path:
    root = tmp_path_factory.mktemp("protocols") / "models"
    making.encoder(root / "finetuned" / "physics", seed=1)
    making.encoder(root / "finetuned" / "prompted", seed=2, prompts=PROMPTS, default_prompt="query")
    making.encoder(root / "finetuned" / "long", seed=3, normalize=False)
    making.encoder(root / "rooted", seed=4)
    making.reranker(root / "finetuned" / "judge", seed=6)
    shutil.copytree(minilm, root / "sentence-transformers" / "all-MiniLM-L6-v2")
    (root / "finetuned" / "physics" / "model_metadata.json").write_text('{"base_model": "acme/base"}')
    half = making.encoder(root / "finetuned" / "half", seed=5)
    (Path(half) / "model.safetensors").write_bytes(b"")
    (root / "aliases.toml").write_text(ALIASES)
    return root


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(root: Path) -> AsyncIterator[RunningGateway]:
    options = ("--device=cpu", "--default-model=finetuned/physics", "--max-inputs=256", "--max-body-bytes=1000000")
    options += (f"--request-timeout={DEADLINE}",)  # a slow machine is no fault
    async with RunningGateway(root, root.parent / "state", *options) as running:
        for model in ("finetuned/physics", "finetuned/prompted", "finetuned/long", "finetuned/judge", "rooted"):
            await running.wait_for(f"huggingface:{model}", "ready", "loaded")
        await running.wait_for("huggingface:sentence-transformers/all-MiniLM-L6-v2", "ready", "loaded")
        await running.wait_for("huggingface:finetuned/half", "rejected")
        yield running
