"""What loads and failures must not leave behind in a host, whatever the libraries below would keep."""

from __future__ import annotations

import asyncio
import gc
import random
import string
import weakref
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from gateway.errors import GatewayError, LoadFailed
from gateway.host import encoder, memory
from gateway.host.pool import Pool
from gateway.host.tokenize import Tokenizer
from gateway.model import Generation
from tests import making

WORDS = 3000
TOKENIZERS = 16
CACHED = 20_000_000  # bytes that the words of so many tokenizers took when each kept a cache for ever


@pytest.mark.parametrize("family", ["roberta", "modernbert", "qwen3"])
def test_a_tokenizer_that_is_dropped_takes_its_words_with_it(tmp_path: Path, family: str) -> None:
    """tokenizers 0.23 keeps the cache of a BPE in each thread that used it, until the thread ends."""
    generation = making.generation(making.encoder(tmp_path / "m", family=family, max_tokens=100))
    chance = random.Random(1)
    texts = [
        " ".join("".join(chance.choices(string.ascii_letters, k=7)) for _ in range(50)) for _ in range(WORDS // 50)
    ]

    def use(times: int) -> int:
        for _ in range(times):
            Tokenizer(generation).encode(texts)
        gc.collect()
        memory.release("cpu")
        return memory.resident()

    use(4)
    before = use(4)
    assert use(TOKENIZERS) - before < CACHED / 4


class Held:
    """Stands for what a load has read when it fails."""


class FailingLoader:
    """A loader that holds much when it fails; `held` tells whether it is still there."""

    def __init__(self) -> None:
        self.held: weakref.ref[Held] | None = None

    async def load(self, generation: Generation) -> Any:
        weights = Held()
        self.held = weakref.ref(weights)
        try:
            int("deep in a library")
        except ValueError as error:
            raise LoadFailed(f"{error}: {generation.short}") from error

    async def close(self, runtime: Any) -> None:
        raise AssertionError("nothing was loaded")

    def predict(self, generation: Generation) -> int:
        return 1


class Deaf:
    def loaded(self, slot: Any, seconds: float) -> None: ...
    def unloaded(self, slot: Any, idle_seconds: float) -> None: ...
    def failed(self, slot: Any, error: GatewayError) -> None: ...
    def changed(self) -> None: ...


async def test_a_failure_is_remembered_without_what_its_load_had_read(tmp_path: Path) -> None:
    generation = making.generation(making.encoder(tmp_path / "m"))
    loader = FailingLoader()
    pool = Pool(loader, Deaf(), budget=10)
    gc.disable()  # it must not take the collector
    try:
        for _ in range(2):  # the second is told what is remembered
            with pytest.raises(LoadFailed, match="deep in a library"):
                async with pool.lease(generation):
                    pass
        await asyncio.sleep(0)
        assert loader.held is not None
        assert loader.held() is None
    finally:
        gc.enable()


def test_a_load_that_fails_unmaps_its_weights_without_the_collector(tmp_path: Path) -> None:
    path = Path(making.encoder(tmp_path / "m"))
    generation = making.generation(str(path))
    _drop_a_tensor(path / "model.safetensors")
    gc.disable()
    try:
        with pytest.raises(LoadFailed, match="lack"):
            encoder.load(generation, "cpu")
        assert str(path / "model.safetensors") not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()


def _drop_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop("encoder.layer.1.output.dense.weight")
    save_file(tensors, file, metadata={"format": "pt"})
