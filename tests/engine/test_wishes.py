"""What a generation is wished to be computed with reaches its host, and what became of it comes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway import events
from gateway.model import Generation
from gateway.wish import AUTO, Wish
from tests import making
from tests.engine.test_process import Rig, rig


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return making.generation(making.encoder(tmp_path_factory.mktemp("made") / "m"))


async def computed(running: Rig, generation: Generation) -> tuple[str, str, str]:
    """Loaded anew: its runtime, its numbers, and why it is not as wished."""
    await running.engine.unload(generation.digest)
    await running.engine.load(generation)
    await running.until(lambda: any(r.numerics for r in running.engine.residences().get(generation.digest, ())))
    (residence,) = running.engine.residences()[generation.digest]
    assert residence.numerics is not None
    return residence.numerics.runtime, residence.numerics.dtype, residence.numerics.fell_back


async def test_a_wish_that_changes_is_told_to_the_host_and_counts_with_the_next_load(generation: Generation) -> None:
    wished = [Wish(AUTO, AUTO)]
    async with rig(wish=lambda _: wished[0]) as running:
        assert await computed(running, generation) == ("torch", "float32", "")
        exact = await running.embed(generation, "alpha beta")
        wished[0] = Wish("torch", "bfloat16")
        assert np.array_equal(await running.embed(generation, "alpha beta"), exact)  # it is loaded, and stays
        assert await computed(running, generation) == ("torch", "bfloat16", "")
        (residence,) = running.engine.residences()[generation.digest]
        assert residence.numerics is not None
        assert residence.numerics.precision is not None
        assert not np.array_equal(await running.embed(generation, "alpha beta"), exact)
        told = [(event.runtime, event.dtype) for event in running.of(events.GenerationLoaded)]
        assert told == [("torch", "float32"), ("torch", "bfloat16")]


async def test_a_runtime_that_falls_back_is_told_once_and_answers_exactly(generation: Generation) -> None:
    async with rig(wish=lambda _: Wish("torch", "int8")) as running:
        for _ in range(2):
            runtime, dtype, why = await computed(running, generation)
            assert (runtime, dtype) == ("torch", "float32")
            assert "torch has no int8" in why
        (told,) = running.of(events.RuntimeFellBack)
        assert (told.generation, told.device, told.dtype) == (generation.short, "cpu", "int8")
        assert told.message == why
    async with rig() as exact:
        expected = await exact.embed(generation, "alpha beta")
    async with rig(wish=lambda _: Wish("torch", "int8")) as running:
        assert np.abs(await running.embed(generation, "alpha beta") - expected).max() < 1e-6


async def test_what_a_model_itself_wishes_counts_where_nobody_else_says_anything(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "m")
    Path(path, "model_metadata.json").write_text('{"dtype": "bfloat16"}')
    async with rig() as running:
        assert await computed(running, making.generation(path)) == ("torch", "bfloat16", "")
