"""The vectors of an adapter are those of sentence-transformers with that adapter, whatever shares a device call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gateway.errors import LoadFailed
from gateway.host import adapted, adapters, encoder
from gateway.host.adapted import Adapter
from gateway.host.encoder import Encoder
from gateway.host.loader import Model
from gateway.host.runtimes import EXACT
from gateway.host.tokenize import Tokenizer
from gateway.host.wire import Numerics
from tests import adapting, making

Vectors = npt.NDArray[np.float32]
TEXTS = ["the beam is stored in the ring", "a poem", "x-ray detector of the storage ring", "beam beam beam", "ring"]
EXACTLY = 0.99999


class Base:
    """A base as the host holds it, and adapters over it."""

    def __init__(self, path: str, dtype: encoder.Dtype = "float32") -> None:
        self.path = path
        self.generation = making.generation(path)
        self.encoder: Encoder = encoder.load(self.generation, "cpu", dtype)
        self.model = Model(self.generation, self.encoder, Numerics(*EXACT), Tokenizer(self.generation))

    def adapter(self, path: str, digest: str = "a" * 64) -> Adapter:
        return adapters.read(adapting.generation(path, self.generation, digest), self.model, self.encoder)

    def vectors(self, texts: Sequence[str], owners: Sequence[Adapter | None]) -> Vectors:
        rows = [
            (owner.tokenizer if owner else self.model.tokenizer).encode([text])[0]
            for text, owner in zip(texts, owners, strict=True)
        ]
        return adapted.embed(self.encoder, rows, [0] * len(rows), owners)

    def of(self, adapter: Adapter) -> Vectors:
        return self.vectors(TEXTS, [adapter] * len(TEXTS))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(making.encoder(tmp_path_factory.mktemp("bert") / "base"))


CONFIGS: dict[str, dict[str, Any]] = {
    "query and value": {},
    "rank 1": {"r": 1},
    "rank 16, all linear layers": {"r": 16, "target_modules": "all-linear"},
    "one name of three layers": {"target_modules": ["dense"]},
    "key alone": {"target_modules": ["key"]},
    "the inner layer": {"target_modules": ["intermediate.dense"]},
    "a pattern of names": {"target_modules": r".*\.(query|value)"},
    "one block": {"layers_to_transform": [1]},
    "a rank of its own": {
        "target_modules": ["query", "key", "value"],
        "rank_pattern": {"value": 2, "0.attention.self.key": 7},
    },
    "a scale of its own": {"alpha_pattern": {"value": 3, r"layer\.1\..*query": 32}},
    "rsLoRA": {"use_rslora": True, "r": 8},
    "DoRA": {"use_dora": True, "target_modules": ["query", "dense"]},
    "DoRA, all linear layers": {"use_dora": True, "target_modules": "all-linear", "use_rslora": True},
    "a pooler that is saved": {"modules_to_save": ["pooler"]},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_vectors_are_those_of_sentence_transformers_with_the_adapter(
    bert: Base, config: dict[str, Any], tmp_path: Path
) -> None:
    path = adapting.lora(tmp_path / "a", bert.path, **config)
    theirs = adapting.reference(bert.path, path, TEXTS, merged=config.get("use_dora", False))
    ours = bert.of(bert.adapter(path))
    assert adapting.lowest_cosine(ours, theirs) >= EXACTLY
    plain = bert.vectors(TEXTS, [None] * len(TEXTS))
    assert adapting.lowest_cosine(ours, plain) < 0.99


FAMILIES = {
    "roberta": ["query", "output.dense"],
    "xlm-roberta": ["query", "value"],
    "distilbert": ["q_lin", "v_lin", "lin1", "lin2"],
    "mpnet": ["q", "k", "v", "o", "dense"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_are_served_over_each_family_that_is_run_natively(family: str, tmp_path: Path) -> None:
    base = Base(making.encoder(tmp_path / "base", family=family))
    path = adapting.lora(tmp_path / "a", base.path, target_modules=FAMILIES[family])
    assert adapting.lowest_cosine(base.of(base.adapter(path)), adapting.reference(base.path, path, TEXTS)) >= EXACTLY


def test_an_adapter_as_sentence_transformers_saves_it_has_its_own_pooling_and_tokenizer(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    base = Base(making.encoder(tmp_path / "base", pooling="cls", dense=24, prompts={"query": "beam "}))
    path = adapting.library(tmp_path / "a", base.path)
    adapter = base.adapter(path)
    assert adapter.tail is not None
    assert adapter.generation.manifest.lora is not None
    assert adapter.generation.manifest.lora.own_tokenizer
    assert adapter.generation.manifest.prompts["query"] == "beam "
    theirs = SentenceTransformer(path, device="cpu").encode(TEXTS)
    assert adapting.lowest_cosine(base.of(adapter), theirs) >= EXACTLY


def test_a_pickled_adapter_is_the_same_adapter(bert: Base, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = adapting.lora(tmp_path / "a", bert.path)
    safe = bert.of(bert.adapter(path))
    weights = tmp_path / "a/adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "a/adapter_model.bin")
    weights.unlink()
    assert np.array_equal(bert.of(bert.adapter(path)), safe)


def test_a_pickled_adapter_of_another_shape_is_refused_when_it_is_loaded(bert: Base, tmp_path: Path) -> None:
    other = making.encoder(tmp_path / "other", dim=48)
    path = adapting.lora(tmp_path / "a", other)
    from safetensors.torch import load_file

    torch.save(load_file(tmp_path / "a/adapter_model.safetensors"), tmp_path / "a/adapter_model.bin")
    (tmp_path / "a/adapter_model.safetensors").unlink()
    with pytest.raises(LoadFailed) as failure:
        bert.adapter(path)
    assert failure.value.details["reason"] == "base_mismatch"


def test_vectors_stay_when_the_weights_of_the_base_are_reordered(tmp_path: Path) -> None:
    base = Base(making.encoder(tmp_path / "base", dim=64))
    path = adapting.lora(tmp_path / "a", base.path, target_modules="all-linear", use_dora=True)
    adapter = base.adapter(path)
    before = base.of(adapter)
    steps = 0
    while base.encoder.wants_pause(busy=False):
        base.encoder.use_pause()
        steps += 1
    assert steps or not torch.backends.mkldnn.is_available()
    assert adapting.lowest_cosine(base.of(adapter), before) >= EXACTLY


def test_in_half_precision_the_adapter_is_computed_as_its_base_is(tmp_path: Path) -> None:
    exact, half = (Base(making.encoder(tmp_path / "base"), dtype) for dtype in ("float32", "bfloat16"))
    path = adapting.lora(tmp_path / "a", exact.path)
    ours = half.adapter(path)
    assert ours.lora.dtype == torch.bfloat16
    assert adapting.lowest_cosine(half.of(ours), exact.of(exact.adapter(path))) >= 0.999


def test_an_adapter_stays_loaded_when_its_base_comes_back_in_another_number_format(tmp_path: Path) -> None:
    exact, half = (Base(making.encoder(tmp_path / "base"), dtype) for dtype in ("float32", "bfloat16"))
    adapter = exact.adapter(adapting.lora(tmp_path / "a", exact.path))
    before = exact.of(adapter)
    assert adapting.lowest_cosine(half.of(adapter), before) >= 0.999
    assert adapting.lowest_cosine(exact.of(adapter), before) >= 0.999


def test_bytes_of_an_adapter_are_those_of_its_tensors(bert: Base, tmp_path: Path) -> None:
    plain = bert.adapter(adapting.lora(tmp_path / "a", bert.path, target_modules="all-linear"))
    manifest = plain.generation.manifest
    pooler = 4 * (32 + 32) * 4  # which no vector needs, and which is not kept
    assert plain.bytes == manifest.stored_bytes - pooler
    dora = bert.adapter(adapting.lora(tmp_path / "b", bert.path, use_dora=True, r=16))
    assert dora.generation.manifest.stored_bytes <= dora.bytes <= 1.1 * dora.generation.manifest.stored_bytes


# together


@pytest.fixture(scope="module")
def three(bert: Base, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("three")
    return [
        adapting.lora(folder / "a", bert.path, seed=1),
        adapting.lora(folder / "b", bert.path, seed=2, r=7, target_modules=["query", "key", "dense"]),
        adapting.lora(folder / "c", bert.path, seed=3, use_dora=True, target_modules="all-linear", use_rslora=True),
    ]


def test_texts_of_several_adapters_and_of_their_base_in_one_call_are_each_their_own(
    bert: Base, three: list[str]
) -> None:
    a, b, c = (bert.adapter(path, str(number) * 64) for number, path in enumerate(three))
    owners = [a, None, b, c, a, b, None, c, a, a, c, None]
    texts = [TEXTS[(3 * number) % len(TEXTS)] for number in range(len(owners))]
    together = bert.vectors(texts, owners)
    for number, owner in enumerate(owners):
        alone = bert.vectors([texts[number]], [owner])
        assert adapting.lowest_cosine(together[number : number + 1], alone) >= 0.999999
    plain = bert.vectors(texts, [None] * len(texts))
    assert all(adapting.lowest_cosine(together[n : n + 1], plain[n : n + 1]) < 0.99 for n, o in enumerate(owners) if o)


def test_a_mixed_call_gives_what_pefts_own_mixed_batch_does(bert: Base, three: list[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    names = ["a", "b", "__base__", "b", "a"]
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(bert.path), three[0], adapter_name="a")
    model.load_adapter(three[1], "b")
    rows = bert.model.tokenizer.encode(TEXTS)
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        tokens = model.eval()(input_ids=ids, attention_mask=mask, adapter_names=names)[0]
    theirs = ((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
    owners = {"a": bert.adapter(three[0]), "b": bert.adapter(three[1]), "__base__": None}
    assert adapting.lowest_cosine(bert.vectors(TEXTS, [owners[name] for name in names]), theirs) >= EXACTLY


def test_vectors_of_single_tokens_are_the_adapters_too(bert: Base, three: list[str]) -> None:
    adapter = bert.adapter(three[1])
    rows = adapter.tokenizer.encode(TEXTS)
    over = adapted.Adapted(adapter, bert.encoder, bert.generation.manifest)
    tokens = over.tokens.embed(rows, [0] * len(rows))
    means = np.stack([each.mean(axis=0) for each in tokens[:, 0]])
    assert [len(each) for each in tokens[:, 0]] == [len(row) for row in rows]
    assert adapting.lowest_cosine(means, bert.of(adapter)) >= EXACTLY


def test_a_device_computes_all_adapters_at_once_and_gives_the_same(bert: Base, three: list[str]) -> None:
    """As it does where each product costs a launch: tried here on the processors."""
    from gateway.host.forms import Own
    from gateway.host.mixed import Changes

    loras = [bert.adapter(path).lora for path in three]
    owners = [loras[0], None, loras[1], loras[2], loras[0]]
    network: Any = bert.encoder._network
    rows = bert.model.tokenizer.encode(TEXTS)
    nothing = np.zeros(len(rows), dtype=np.int64)
    changes = Changes.by(owners, ("mean",))
    form = Own(network, torch.nn.Sequential(), bert.encoder.pooling, "cpu")
    with torch.inference_mode():
        numbers = torch.from_numpy(form.padded(rows, nothing, (len(rows), max(map(len, rows)))))
        at_once = form.pooled(numbers, changes).numpy()
        by_runs = network.pooled(rows, nothing, changes).numpy()
    assert np.abs(at_once - by_runs).max() < 1e-4


def test_adapters_whose_vectors_are_of_another_length_or_pooling_share_no_call(bert: Base, tmp_path: Path) -> None:
    path = adapting.lora(tmp_path / "a", bert.path)
    manifest = bert.generation.manifest
    adapter = bert.adapter(path)
    assert adapted.Adapted(adapter, bert.encoder, manifest, bert.model.mixer).mixer is bert.model
    other = making.generation(making.encoder(tmp_path / "cls", pooling="cls")).manifest
    assert adapted.Adapted(adapter, bert.encoder, other, bert.model.mixer).mixer is None
