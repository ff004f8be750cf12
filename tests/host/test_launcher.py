"""What a GPU computes is what a CPU computes, however a call gets there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gateway.host import blocks, encoder, flash, forms, memory, pairs
from gateway.host.attention import Grouped, relative
from gateway.host.flash import Flash, Masked, can_flash
from gateway.host.graphs import LEAST_USES, Function
from gateway.host.launcher import Launcher
from gateway.host.segments import Group, Integers
from gateway.host.staging import Event
from gateway.host.tokenize import Tokenizer
from tests import making
from tests.host.test_graphs import Tape

TEXTS = ("the beam is in the storage ring", "laser", "photon " * 30, "a", "x-ray light source", "beam magnet tune")
RECIPES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"family": "roberta", "pooling": "cls"},
    "distilbert": {"family": "distilbert", "pooling": "lasttoken"},
    "mpnet": {"family": "mpnet", "pooling": "max"},
    "qwen3": {"family": "qwen3", "pooling": "lasttoken"},
    "t5": {"family": "t5", "pooling": "weightedmean"},
    "dense": {"dense": 16},
    "two modes": {"pooling": ("cls", "mean")},
    "prompts left out": {"include_prompt": False, "pooling": ("mean", "max")},
}


class NearBus:
    """A bus to the device that this is: copies are done at once."""

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype)

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype)

    def up(self, source: Tensor, target: Tensor) -> None:
        target.copy_(source)

    def down(self, source: Tensor, target: Tensor) -> Event:
        target.copy_(source)
        return Now()


class Now:
    def synchronize(self) -> None: ...


class Taping:
    def capture(self, function: Function, numbers: Tensor, room: int) -> Tape:
        function(numbers)
        return Tape(function, numbers)


class Laid(forms.Own):
    """The native form with texts end to end, on a device whose kernel is the loop below."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.flash = self._bert.bias is None


def each(  # noqa: PLR0917 - as torch's kernel is called
    query: Tensor, key: Tensor, value: Tensor, begins: Tensor, also: Tensor, longest: int, too: int
) -> Tensor:
    """What the flash kernel computes, one text after the other."""
    assert begins.dtype == torch.int32
    assert begins is also
    assert longest == too == int(begins.diff().max())
    found = []
    for begin, end in zip(begins.tolist(), begins.tolist()[1:], strict=False):
        part = (tensor[begin:end].transpose(0, 1) for tensor in (query, key, value))
        found.append(nn.functional.scaled_dot_product_attention(*part).transpose(0, 1))
    return torch.cat(found)


def launcher(loaded: encoder.Encoder, form: forms.Form | None = None) -> Launcher:
    form = form or forms.of(loaded._network, loaded._tail, loaded.pooling, "cpu")
    return Launcher(form, loaded._longest, NearBus(), Taping(), graph_bytes=1 << 30, tell=print)


def prepared(path: str) -> tuple[encoder.Encoder, list[Integers], Integers, encoder.Vectors]:
    """A loaded model, rows, how much of each is left out, and the vectors as a CPU makes them."""
    generation = making.generation(path)
    tokenizer = Tokenizer(generation)
    rows, prompt = tokenizer.encode(TEXTS, prompt="query: "), tokenizer.prompt_tokens("query: ")
    loaded = encoder.load(generation, "cpu")
    left_out = np.full(len(rows), 0 if loaded.pooling.include_prompt else prompt, dtype=np.int64)
    return loaded, rows, left_out, loaded.embed(rows, prompt)


def agree(found: encoder.Vectors, wanted: encoder.Vectors) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_padded_captured_and_packed_calls_all_give_the_vectors_of_the_cpu(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, rows, left_out, wanted = prepared(making.encoder(tmp_path / "model", **recipe))
    calls = launcher(loaded)
    agree(calls.begin(rows, left_out).wait(), wanted)
    for _ in range(LEAST_USES):
        calls.begin(rows, left_out).wait()
    assert calls.wants_pause(busy=False)
    calls.use_pause()
    agree(calls.begin(rows, left_out).wait(), wanted)
    agree(calls.begin(rows[:5], left_out[:5]).wait(), wanted[:5])
    calls.close()
    agree(calls.begin(rows, left_out).wait(), wanted)
    if loaded.packed:
        monkeypatch.setattr(flash, "_varlen", lambda: each)
        laid = Laid(loaded._network, loaded._tail, loaded.pooling, "cpu")
        agree(launcher(loaded, laid).begin(rows, left_out).wait(), wanted)


def test_the_real_minilm_gives_the_same_vectors_packed_padded_and_captured(
    minilm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash, "_varlen", lambda: each)
    loaded, rows, left_out, wanted = prepared(minilm)
    for form in (None, Laid(loaded._network, loaded._tail, loaded.pooling, "cpu")):
        agree(launcher(loaded, form).begin(rows, left_out).wait(), wanted)


def test_in_half_precision_the_vectors_point_the_same_way(minilm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "_varlen", lambda: each)
    _, rows, left_out, wanted = prepared(minilm)
    half = encoder.load(making.generation(minilm), "cpu", "bfloat16")
    for form in (None, Laid(half._network, half._tail, half.pooling, "cpu")):
        found = launcher(half, form).begin(rows, left_out).wait()
        assert (found * wanted).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_a_capture_is_never_longer_than_the_positions_of_its_model(family: str, tmp_path: Path) -> None:
    """On a GPU a token without a position ends the process."""
    path = making.encoder(tmp_path / "model", family=family, max_tokens=22, positions=24)
    loaded, rows, left_out, wanted = prepared(path)
    assert max(map(len, rows)) == 22
    calls = launcher(loaded)
    for _ in range(LEAST_USES):
        calls.begin(rows, left_out).wait()
    calls.use_pause()
    assert calls.captured_bytes > 0
    agree(calls.begin(rows, left_out).wait(), wanted)


def test_two_calls_under_way_get_their_own_vectors(tmp_path: Path) -> None:
    loaded, rows, left_out, wanted = prepared(making.encoder(tmp_path / "model"))
    calls = launcher(loaded)
    pending = [calls.begin([row], left_out[:1]) for row in rows]
    agree(np.concatenate([one.wait() for one in pending]), wanted)


def test_a_call_that_the_device_has_no_memory_for_is_told_as_such(tmp_path: Path) -> None:
    loaded, rows, left_out, _ = prepared(making.encoder(tmp_path / "model"))

    class Full(forms.Generic):
        def vectors(self, numbers: Tensor) -> Tensor:
            return torch.empty(1 << 60)

    full = Full(loaded._network, loaded._tail)  # type: ignore[arg-type]  # it is never asked
    full.padded = lambda batch, left_out, shape: np.zeros(shape, dtype=np.int64)  # type: ignore[method-assign]  # likewise
    with pytest.raises(memory.OutOfMemory):
        launcher(loaded, full).begin(rows, left_out)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_over_a_masked_block_is_that_of_each_text_alone(dtype: torch.dtype, bias: bool) -> None:
    heads, lengths = 4, [5, 1, 9]
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    qkv = torch.randn(27, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
    added = relative(torch.randn(32, heads, generator=torch.Generator().manual_seed(2)).to(dtype)) if bias else None
    found = Masked(mask, heads, dtype, added)(qkv)
    for text, length in enumerate(lengths):
        part = qkv[9 * text : 9 * text + length]
        wanted = Grouped([Group(0, 1, length)], heads, added)(part)
        torch.testing.assert_close(found[9 * text : 9 * text + length], wanted)


def test_a_text_without_tokens_gives_numbers_and_not_nan() -> None:
    assert Masked(torch.zeros(1, 4, dtype=torch.long), 2, torch.float32)(torch.randn(4, 24)).isfinite().all()


def test_attention_over_texts_end_to_end_is_that_of_each_text_alone() -> None:
    lengths = [3, 7, 1, 7]
    bounds = torch.tensor([0, 3, 10, 11, 18], dtype=torch.int32)
    qkv = torch.randn(18, 48)
    found = Flash(bounds, 7, 2, each)(qkv)
    wanted = [Grouped([Group(0, 1, n)], 2)(qkv[b : b + n]) for b, n in zip(bounds.tolist(), lengths, strict=False)]
    torch.testing.assert_close(found, torch.cat(wanted))


def test_flash_is_for_half_precision_on_a_gpu_and_nothing_else() -> None:
    assert not can_flash(torch.bfloat16, 64, "cpu")
    assert not can_flash(torch.float32, 64, "cuda")
    assert not can_flash(torch.bfloat16, 60, "cuda")
    assert not can_flash(torch.bfloat16, 512, "cuda")


def test_a_block_has_the_texts_first_and_no_row_without_a_token() -> None:
    call = blocks.padded([np.array([7, 8, 9]), np.array([5])], np.array([1, 0]), (4, 5), 0)
    ids, mask, kept = blocks.split(torch.from_numpy(call))
    assert ids.tolist() == [[7, 8, 9, 0, 0], [5, 0, 0, 0, 0], [0] * 5, [0] * 5]
    assert mask.tolist() == [[1, 1, 1, 0, 0], *[[1, 0, 0, 0, 0]] * 3]
    assert kept.tolist() == [[0, 1, 1, 0, 0], *[[1, 0, 0, 0, 0]] * 3]


def test_texts_end_to_end_know_their_texts_and_places() -> None:
    ids, bounds, left_out = blocks.packed([np.array([7, 8, 9]), np.array([5]), np.array([6, 4])], np.array([1, 0, 0]))
    texts, within = blocks.places(len(ids), torch.from_numpy(bounds))
    assert ids.tolist() == [7, 8, 9, 5, 6, 4]
    assert bounds.tolist() == [0, 3, 4, 6]
    assert left_out.tolist() == [1, 0, 0]
    assert texts.tolist() == [0, 0, 0, 1, 2, 2]
    assert within.tolist() == [0, 1, 2, 0, 0, 1]


@pytest.mark.parametrize(("skipped", "wanted"), [(1, [[2, 1, 3, 1], [1, 2, 3, 4]]), (None, [[0, 1, 2, 3]] * 2)])
def test_tokens_that_have_no_position_of_their_own_are_not_counted(
    skipped: int | None, wanted: list[list[int]]
) -> None:
    ids, bounds = torch.tensor([[5, 1, 6, 1], [1, 8, 9, 7]]), torch.tensor([0, 4, 8])
    assert blocks.positions(ids, skipped).tolist() == wanted
    texts, within = blocks.places(8, bounds)
    assert blocks.packed_positions(ids.flatten(), bounds, texts, within, skipped).view(2, 4).tolist() == wanted


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "modernbert", "t5"])
def test_token_vectors_are_those_of_the_cpu(family: str, tmp_path: Path) -> None:
    loaded, rows, _, _ = prepared(making.encoder(tmp_path / "model", family=family, pooling="cls"))
    for found, wanted in zip(launcher(loaded).tokens(rows), loaded.token_vectors(rows), strict=True):
        agree(found.numpy(), wanted)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_scores_of_pairs_are_those_of_the_cpu_padded_and_captured(family: str, tmp_path: Path) -> None:
    generation = making.generation(making.reranker(tmp_path / "model", family=family))
    rows = pairs.encode(Tokenizer(generation), "where is the beam?", TEXTS)
    loaded, nothing = encoder.load(generation, "cpu"), np.zeros(len(rows), dtype=np.int64)
    calls, wanted = launcher(loaded), loaded.embed(rows)
    for _ in range(LEAST_USES):
        agree(calls.begin(rows, nothing).wait(), wanted)
    calls.use_pause()
    agree(calls.begin(rows, nothing).wait(), wanted)
