"""Our own forward pass: the vectors of sentence-transformers, for exactly the models that it understands."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from gateway.errors import LoadFailed
from gateway.host import encoder, linear, memory
from gateway.host.blueprint import FAMILIES
from gateway.host.crew import Crew
from gateway.host.native import Native
from gateway.host.tokenize import Tokenizer
from gateway.model import Generation
from gateway.volume import architectures
from tests import making
from tests.making import families

needs_onednn = pytest.mark.skipif(
    not linear.can_reorder(torch.float32), reason="oneDNN has no float32 kernel on this processor"
)
MOST = 1e-5  # between two numbers of a vector of unit length
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PIECES = 62  # words that fit into a text beside its two special tokens
LENGTHS = (0, 1, 2, 3, 5, 7, 7, 12, 16, 31, 33, 60, PIECES, PIECES + 40)  # the last is truncated
TEXTS = tuple(" ".join(itertools.islice(itertools.cycle(families.WORDS[shift:]), n)) for shift, n in enumerate(LENGTHS))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def own_tables(loaded: encoder.Encoder) -> int:
    """Bytes of what transformers makes anew for each network (positions from 0 on): some kilobytes, in no file."""
    network = loaded._network
    return sum(tensor.nbytes for name, tensor in network.named_buffers() if name not in network.state_dict())


def native(loaded: encoder.Encoder) -> bool:
    return isinstance(loaded._network, Native)


def change(path: str, changed: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = Path(path, "model.safetensors")
    save_file(changed(load_file(file)), file, metadata={"format": "pt"})


def rows(generation: Generation, texts: tuple[str, ...] = TEXTS) -> list[encoder.TokenIds]:
    return Tokenizer(generation).encode(texts)


def agree(path: str, texts: tuple[str, ...] = TEXTS, prompt: str = "") -> encoder.Encoder:
    """Also when its weights have been reordered."""
    generation = making.generation(path)
    loaded, tokenizer = encoder.load(generation, "cpu"), Tokenizer(generation)
    batch = tokenizer.encode(texts, prompt=prompt), tokenizer.prompt_tokens(prompt)
    early, late = loaded.embed(*batch), settled(loaded).embed(*batch)
    library = SentenceTransformer(path, device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    wanted = library.encode(list(texts), prompt=prompt or None)
    for found in (early, late):
        assert np.abs(found - wanted).max() <= MOST * np.linalg.norm(wanted, axis=1).max()
    return loaded


def settled(loaded: encoder.Encoder) -> encoder.Encoder:
    """With all done that makes calls faster, a step at a time."""
    for _ in range(100):
        if not loaded.wants_pause(busy=False):
            return loaded
        loaded.use_pause()
    raise AssertionError("it never ends")


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_sentence_transformers_at_every_length(family: str, tmp_path: Path) -> None:
    assert native(agree(making.encoder(tmp_path / "m", family=family, dim=64, layers=3, max_tokens=64)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_alone_has_the_vector_that_it_has_among_others(family: str, tmp_path: Path) -> None:
    generation = making.generation(making.encoder(tmp_path / "m", family=family))
    loaded = encoder.load(generation, "cpu")
    together = loaded.embed(rows(generation))
    alone = np.concatenate([loaded.embed([row]) for row in rows(generation)])
    assert np.abs(together - alone).max() <= MOST


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_every_way_of_pooling_and_prompts_are_those_of_sentence_transformers(
    family: str, include_prompt: bool, tmp_path: Path
) -> None:
    path = making.encoder(
        tmp_path / "m", family=family, pooling=MODES, include_prompt=include_prompt, normalize=False, layer_norm=True
    )
    assert native(agree(path, TEXTS[1:], prompt="query: "))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "mpnet"])
def test_activations_are_those_of_transformers(family: str, activation: str, tmp_path: Path) -> None:
    key = "activation" if family == "distilbert" else "hidden_act"
    assert native(agree(making.encoder(tmp_path / "m", family=family, config={key: activation})))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_that_spells_the_padding_is_numbered_as_in_transformers(family: str, tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "m", family=family)
    token = SentenceTransformer(path, device="cpu", local_files_only=True).tokenizer.pad_token
    texts = (f"the beam {token} is {token}{token} in the ring", "laser", f"{token} light")
    pad = 1 if family in families.PADDED_WITH_ONE else 0
    assert any((row == pad).any() for row in rows(making.generation(path), texts))
    agree(path, texts)


@pytest.mark.parametrize("key", ["layer_norm_eps", "type_vocab_size"])
def test_what_a_config_may_vary_is_obeyed(key: str, tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "m", config={key: {"layer_norm_eps": 0.1, "type_vocab_size": 3}[key]})
    if key == "type_vocab_size":
        name = "embeddings.token_type_embeddings.weight"
        change(path, lambda held: held | {name: torch.randn(3, held[name].shape[1])})
    assert native(agree(path))


@pytest.mark.parametrize("changed", [{"hidden_act": "silu"}, {"position_embedding_type": "relative_key"}], ids=str)
def test_an_unusual_config_is_left_to_transformers(changed: dict[str, Any], tmp_path: Path) -> None:
    assert not native(agree(making.encoder(tmp_path / "m", config=changed)))


def test_the_names_of_older_checkpoints_are_left_to_transformers(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "m")
    new, old = ("LayerNorm.weight", "LayerNorm.bias"), ("LayerNorm.gamma", "LayerNorm.beta")
    change(
        path,
        lambda held: {name.replace(new[0], old[0]).replace(new[1], old[1]): held[name] for name in held},
    )
    assert not native(agree(path))


def test_a_checkpoint_with_heads_is_read_by_the_names_of_its_base(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "m", family="xlm-roberta")
    change(path, lambda held: {f"roberta.{name}": held[name] for name in held} | {"lm_head.bias": torch.ones(3)})
    assert native(agree(path))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_may_be_missing_or_of_another_shape(family: str, tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "m", family=family, layers=1)
    whole = load_file(Path(path, "model.safetensors"))
    generation = making.generation(path)
    for name in (name for name in whole if "pooler" not in name):
        for broken in ({}, {name: torch.zeros(3, 5)}):
            kept = {other: tensor for other, tensor in whole.items() if other != name}
            save_file(kept | broken, Path(path, "model.safetensors"), metadata={"format": "pt"})
            with pytest.raises(LoadFailed) as caught:
                encoder.load(generation, "cpu")
            assert caught.value.details["reason"] in {"weights_missing", "weights_unreadable"}, name


@pytest.mark.parametrize(("dtype", "lowest"), [("bfloat16", 0.999), ("float16", 0.99999)])
@pytest.mark.parametrize("family", [*FAMILIES, "modernbert", "qwen3"])
def test_half_precision_costs_what_it_must_and_half_the_bytes(
    family: str, dtype: encoder.Dtype, lowest: float, tmp_path: Path
) -> None:
    generation = making.generation(making.encoder(tmp_path / "m", family=family, dim=64))
    whole, half = encoder.load(generation, "cpu"), encoder.load(generation, "cpu", dtype)
    wanted, found = whole.embed(rows(generation)), half.embed(rows(generation))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)  # what makes unit length is not in halves
    assert (wanted * found).sum(axis=1).min() >= lowest
    assert half.bytes - own_tables(half) < 0.52 * (whole.bytes - own_tables(whole))


@pytest.mark.parametrize("family", architectures.FAMILIES)
@pytest.mark.parametrize("dtype", encoder.DTYPES)
def test_a_load_takes_no_more_than_the_pool_was_promised(
    family: str, dtype: encoder.Dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "pays", linear.can_reorder)  # also where the processor has no need of it
    generation = making.generation(making.encoder(tmp_path / "m", family=family, dim=64, dense=16))
    loaded = encoder.load(generation, "cpu", dtype)
    assert 0 < loaded.bytes <= memory.predict(generation.manifest, dtype) + own_tables(loaded)


@pytest.mark.parametrize("family", architectures.FAMILIES)
def test_reordered_weights_give_every_family_its_vectors(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "pays", lambda dtype: False)
    generation = making.generation(making.encoder(tmp_path / "m", family=family, dim=64))
    wanted = encoder.load(generation, "cpu").embed(rows(generation))
    monkeypatch.setattr(linear, "pays", linear.can_reorder)
    assert np.abs(settled(encoder.load(generation, "cpu")).embed(rows(generation)) - wanted).max() <= MOST


def test_of_a_model_that_is_not_its_own_copy_only_the_words_stay_mapped(minilm: str) -> None:
    generation = making.generation(minilm)
    loaded = encoder.load(generation, "cpu")
    assert native(loaded)
    file = str(Path(minilm, "model.safetensors"))
    before = loaded.bytes
    settled(loaded)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(file)]
    assert len(maps) == 1
    assert loaded._bytes() <= before
    loaded.close()
    assert file not in Path("/proc/self/maps").read_text()


@needs_onednn
def test_a_load_copies_no_matrix_and_layers_are_reordered_afterwards_one_by_one(tmp_path: Path) -> None:
    generation = making.generation(making.encoder(tmp_path / "m", family="bert", dim=64))
    loaded = encoder.load(generation, "cpu")
    layers = len(loaded._network.bert.layers)
    steps = 0
    while loaded.wants_pause(busy=True):
        assert linear.reordered_bytes(loaded._network) < loaded.bytes
        loaded.use_pause()
        steps += 1
    assert steps == layers
    assert all(part.weight.is_mkldnn for part in linear._linears(loaded._network))
    loaded.use_pause()  # there is nothing to do, and nothing is done


@needs_onednn
def test_a_model_that_is_closed_while_it_is_being_reordered_leaves_nothing(tmp_path: Path) -> None:
    loaded = encoder.load(making.generation(making.encoder(tmp_path / "m", family="bert")), "cpu")
    loaded.use_pause()
    loaded.close()
    assert not loaded.wants_pause(busy=False)
    loaded.use_pause()  # one that was on its way to the device
    assert loaded._bytes() == 0


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_texts_that_are_divided_among_threads_have_the_same_vectors(family: str, tmp_path: Path) -> None:
    generation = making.generation(making.encoder(tmp_path / "m", family=family, include_prompt=False))
    loaded = encoder.load(generation, "cpu")
    batch = rows(generation) * 3
    prompts = [index % 3 for index in range(len(batch))]
    found = loaded.embed(batch, prompts)
    torch.set_num_threads(1)
    assert np.abs(found - loaded.embed(batch, prompts)).max() <= MOST


@pytest.mark.usefixtures("two_threads")
def test_each_thread_of_a_crew_computes_alone_and_its_caller_as_before() -> None:
    crew = Crew(2)
    met = threading.Barrier(2, timeout=300)

    def seen(part: int) -> tuple[int, int, bool, int]:
        met.wait()
        return part, threading.get_ident(), torch.is_inference_mode_enabled(), torch.get_num_threads()

    for _ in range(2):
        found = crew.map(seen, [1, 2])
        assert [part for part, *_ in found] == [1, 2]
        assert len({thread for _, thread, *_ in found}) == 2
        assert [rest for _, _, *rest in found] == [[True, 1], [True, 1]]
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_thread_that_begins_later_has_as_many_threads_as_the_process() -> None:
    Crew(2).map(lambda part: part, [1, 2])
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [2]


def test_what_a_part_raises_comes_out_when_all_are_done() -> None:
    done = []

    def work(part: int) -> None:
        if part == 1:
            raise RuntimeError("can't allocate memory: of a part")
        done.append(part)

    with pytest.raises(memory.OutOfMemory), memory.guarded():
        Crew(2).map(work, [1, 2])
    assert done == [2]
