"""On a GPU: the vectors of the CPU whichever way a call takes, and no byte that is not counted or not given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gateway.host import encoder, memory, pairs, runtimes
from gateway.host.encoder import Dtype, Encoder, Vectors
from gateway.host.flash import can_flash
from gateway.host.graphs import LEAST_USES
from gateway.host.loader import Model
from gateway.host.segments import Integers
from gateway.host.tokenize import Tokenizer
from gateway.model import Generation
from gateway.wish import Wish
from tests import making

TEXTS = ("the beam is in the storage ring", "laser", "photon " * 30, "a", "x-ray light source", "beam magnet tune")
FAMILIES = ("bert", "roberta", "distilbert", "mpnet", "modernbert", "qwen3", "t5")


def cosines(some: Vectors, others: Vectors) -> Vectors:
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    products: Vectors = (some * others).sum(axis=1) / lengths
    return products


def prepared(path: str) -> tuple[Generation, list[Integers], Vectors]:
    """A model, rows, and its vectors as the CPU makes them."""
    generation = making.generation(path)
    rows = Tokenizer(generation).encode(TEXTS)
    return generation, rows, encoder.load(generation, "cpu").embed(rows)


@contextmanager
def room(free: int) -> Iterator[None]:
    """Only so many bytes more than are taken now."""
    memory.release("cuda:0")
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + free) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_the_cpu_before_and_after_they_are_captured(
    family: str, tmp_path: Path, device: str
) -> None:
    generation, rows, wanted = prepared(
        making.encoder(tmp_path / "model", family=family, pooling=("mean", "lasttoken"))
    )
    loaded = encoder.load(generation, device)
    for _ in range(LEAST_USES):
        assert cosines(loaded.embed(rows), wanted).min() > 0.99999
    assert loaded.wants_pause(busy=False)
    loaded.use_pause()
    assert cosines(loaded.embed(rows), wanted).min() > 0.99999
    assert cosines(loaded.embed(rows[:3]), wanted[:3]).min() > 0.99999


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet"])
def test_our_own_networks_can_be_captured(
    family: str, tmp_path: Path, device: str, capfd: pytest.CaptureFixture[str]
) -> None:
    generation, rows, _ = prepared(making.encoder(tmp_path / "model", family=family, dim=256))
    loaded = encoder.load(generation, device)
    assert loaded.launcher is not None
    for _ in range(LEAST_USES):
        loaded.embed(rows)
    loaded.use_pause()
    assert capfd.readouterr().err == ""
    assert loaded.launcher.captured_bytes > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_points_the_same_way_packed_and_captured(minilm: str, dtype: Dtype, device: str) -> None:
    generation, rows, wanted = prepared(minilm)
    loaded = encoder.load(generation, device, dtype)
    assert loaded.packed == can_flash(getattr(torch, dtype), 32, device)
    for _ in range(LEAST_USES):
        assert cosines(loaded.embed(rows), wanted).min() > 0.999
    loaded.use_pause()
    assert cosines(loaded.embed(rows), wanted).min() > 0.999


def test_prompts_are_left_out_of_pooling_as_on_the_cpu(tmp_path: Path, device: str) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", include_prompt=False, pooling=("mean", "max")))
    tokenizer = Tokenizer(generation)
    rows, prompt = tokenizer.encode(TEXTS, prompt="query: "), tokenizer.prompt_tokens("query: ")
    wanted = encoder.load(generation, "cpu").embed(rows, prompt)
    assert cosines(encoder.load(generation, device).embed(rows, prompt), wanted).min() > 0.99999


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_beginning_a_call_waits_for_nothing_on_the_device(minilm: str, dtype: Dtype, device: str) -> None:
    generation, rows, _ = prepared(minilm)
    loaded = encoder.load(generation, device, dtype)
    assert loaded.launcher is not None
    nothing = np.zeros(len(rows), dtype=np.int64)
    for _ in range(3):  # libraries and buffers take what they need
        loaded.launcher.begin(rows, nothing).wait()
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = [loaded.launcher.begin(rows, nothing) for _ in range(2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    first, second = (one.wait() for one in pending)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("recipe", [{}, {"dense": 16, "layer_norm": True}, {"family": "t5"}, {"shards": 3}], ids=str)
def test_a_load_takes_no_more_bytes_than_were_predicted(recipe: dict[str, Any], tmp_path: Path, device: str) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", dim=256, **recipe))
    before = torch.cuda.memory_allocated()
    loaded = encoder.load(generation, device)
    assert torch.cuda.memory_allocated() - before <= loaded.bytes
    assert loaded.bytes <= runtimes.predict(generation, Wish(), device)


def test_a_closed_model_gives_all_its_bytes_back_captures_too(minilm: str, device: str) -> None:
    generation, rows, _ = prepared(minilm)

    def use() -> None:
        loaded = encoder.load(generation, device)
        for _ in range(LEAST_USES):
            loaded.embed(rows)
        loaded.use_pause()
        loaded.embed(rows)
        loaded.close()

    use()  # what libraries take once, they keep
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    use()
    assert torch.cuda.memory_allocated() <= before[0]
    assert torch.cuda.memory_reserved() <= before[1]


def test_a_parked_model_holds_nothing_on_the_device_and_comes_back_the_same(minilm: str, device: str) -> None:
    generation, rows, wanted = prepared(minilm)
    before = torch.cuda.memory_allocated()
    loaded = encoder.load(generation, device)
    for _ in range(LEAST_USES):
        loaded.embed(rows)
    loaded.use_pause()
    for _ in range(2):
        loaded.park()
        memory.release(device)
        assert torch.cuda.memory_allocated() - before < 1 << 20  # captures may have left a workspace
        loaded.place(device)
        assert cosines(loaded.embed(rows), wanted).min() > 0.99999
    loaded.close()


def test_a_load_without_room_says_so_and_holds_nothing(tmp_path: Path, device: str) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", dim=1024, heads=16))
    before = torch.cuda.memory_allocated()
    with room(8 << 20), pytest.raises(memory.OutOfMemory):
        encoder.load(generation, device)
    assert torch.cuda.memory_allocated() == before
    encoder.load(generation, device).close()


def test_a_call_without_room_is_halved_until_it_fits(tmp_path: Path, device: str) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", dim=512, heads=8))
    rows = Tokenizer(generation).encode(TEXTS) * 400
    model = a_model(generation, encoder.load(generation, device))
    whole = model.embed(rows, [0] * len(rows))
    memory.release(device)
    with room(192 << 20):
        with pytest.raises(memory.OutOfMemory):
            model.encoder.embed(rows)
        found = model.embed(rows, [0] * len(rows))
    assert cosines(found, whole).min() > 0.99999


def test_two_models_that_take_turns_do_not_disturb_each_others_captures(tmp_path: Path, device: str) -> None:
    both = []
    for seed in (1, 2):
        generation, rows, wanted = prepared(making.encoder(tmp_path / str(seed), seed=seed))
        loaded = encoder.load(generation, device)
        for _ in range(LEAST_USES):
            loaded.embed(rows)
        loaded.use_pause()
        both.append((loaded, rows, wanted))
    for _ in range(3):
        for loaded, rows, wanted in both:
            assert cosines(loaded.embed(rows), wanted).min() > 0.99999


def a_model(generation: Generation, loaded: Encoder) -> Model:
    chosen = runtimes.Chosen(loaded, None)  # type: ignore[arg-type]  # nobody asks for its numerics here
    return Model(generation, chosen, Tokenizer(generation))


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_token_vectors_are_those_of_the_cpu(family: str, tmp_path: Path, device: str) -> None:
    generation, rows, _ = prepared(making.encoder(tmp_path / "model", family=family))
    wanted = encoder.load(generation, "cpu").token_vectors(rows)
    for found, theirs in zip(encoder.load(generation, device).token_vectors(rows), wanted, strict=True):
        assert cosines(found, theirs).min() > 0.99999


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_scores_are_those_of_the_cpu(family: str, tmp_path: Path, device: str) -> None:
    generation = making.generation(making.reranker(tmp_path / "model", family=family))
    rows = pairs.encode(Tokenizer(generation), "where is the beam?", TEXTS)
    wanted = encoder.load(generation, "cpu").embed(rows)
    loaded = encoder.load(generation, device)
    for _ in range(LEAST_USES):
        np.testing.assert_allclose(loaded.embed(rows), wanted, atol=1e-4)
    loaded.use_pause()
    np.testing.assert_allclose(loaded.embed(rows), wanted, atol=1e-4)
