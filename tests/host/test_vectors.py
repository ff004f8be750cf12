"""The vectors are those of sentence-transformers, whatever the family, the stages and the spelling of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from gateway.host import encoder
from gateway.host.tokenize import Tokenizer
from gateway.volume.architectures import FAMILIES
from tests import making

TEXTS = (
    "the beam is in the storage ring",
    "laser",
    "A Klystron power supply TRIP alarm!",
    "Éü 光束, undulator 𝛾 \u200b - x-ray",
    "",
    "photon electron beam magnet " * 100,
    " the  vacuum\tin\nthe cavity ",
    "source",
)
LOWEST_COSINE = 0.99999

RECIPES: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": {"pooling": "cls"},
    "max": {"pooling": "max"},
    "mean_sqrt_len_tokens": {"pooling": "mean_sqrt_len_tokens", "normalize": False},
    "weightedmean": {"pooling": "weightedmean"},
    "lasttoken": {"pooling": "lasttoken"},
    "two modes": {"pooling": ("cls", "mean")},
    "six modes": {"pooling": ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")},
    "dense": {"dense": 16},
    "dense without bias, identity": {"dense": 16, "bias": False, "activation": "torch.nn.modules.linear.Identity"},
    "dense over two modes": {"pooling": ("mean", "max"), "dense": 16, "activation": "torch.nn.modules.activation.GELU"},
    "layer norm": {"layer_norm": True, "normalize": False},
    "dense, layer norm": {"dense": 16, "layer_norm": True},
    "old spelling": {"spelling": "old"},
    "old spelling, cls": {"spelling": "old", "pooling": "cls"},
    "old spelling, folder": {"spelling": "old", "folder": "0_Transformer", "dense": 16},
    "folder": {"folder": "0_Transformer"},
    "plain": {"plain": True},
    "plain roberta": {"plain": True, "family": "roberta"},
    "plain half precision": {"plain": True, "dtype": "float16"},
    "sharded": {"shards": 3},
    "float16": {"dtype": "float16", "dense": 16},
    "bfloat16": {"dtype": "bfloat16"},
    "pickled": {"weights": "bin", "dense": 16},
    "vocab.txt": {"tokenizer_json": False},
    "cased": {"lower": False},
    "cased, lowered first": {"lower": False, "lower_case": True, "spelling": "old"},
}
PROMPTS: dict[str, dict[str, Any]] = {
    "included": {},
    "excluded": {"include_prompt": False},
    "excluded, cls": {"include_prompt": False, "pooling": "cls"},
    "excluded, all": {"include_prompt": False, "pooling": ("max", "mean", "weightedmean", "lasttoken")},
    "excluded, roberta": {"include_prompt": False, "family": "roberta"},
    "excluded, t5": {"include_prompt": False, "family": "t5"},
}


def reference(path: str) -> SentenceTransformer:
    return SentenceTransformer(path, device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})


def ours(path: str, texts: tuple[str, ...] = TEXTS, prompt: str = "", device: str = "cpu") -> encoder.Vectors:
    generation = making.generation(path)
    tokenizer = Tokenizer(generation)
    return encoder.load(generation, device).embed(
        tokenizer.encode(texts, prompt=prompt), tokenizer.prompt_tokens(prompt)
    )


def agree(found: encoder.Vectors, wanted: encoder.Vectors) -> None:
    """Same direction and same length, vector by vector."""
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    lengths, wanted_lengths = np.linalg.norm(found, axis=1), np.linalg.norm(wanted, axis=1)
    cosines = (found * wanted).sum(axis=1) / (lengths * wanted_lengths)
    assert cosines.min() >= LOWEST_COSINE
    np.testing.assert_allclose(lengths, wanted_lengths, rtol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_vectors_are_those_of_sentence_transformers(recipe: dict[str, Any], tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", **recipe)
    agree(ours(path), reference(path).encode(list(TEXTS)))


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_of_every_family_that_the_volume_accepts_are_those_of_sentence_transformers(
    family: str, tmp_path: Path
) -> None:
    path = making.encoder(tmp_path / "model", family=family, pooling=("lasttoken", "mean"))
    agree(ours(path), reference(path).encode(list(TEXTS)))


def test_different_texts_of_a_made_model_have_clearly_different_vectors(tmp_path: Path) -> None:
    """Else the comparison above would say nothing."""
    vectors = ours(making.encoder(tmp_path / "model"))
    cosines = vectors @ vectors.T
    assert (cosines[~np.eye(len(TEXTS), dtype=bool)] < 0.99).all()


def test_vectors_of_the_real_minilm_are_those_of_sentence_transformers(minilm: str) -> None:
    agree(ours(minilm), reference(minilm).encode(list(TEXTS)))


@pytest.mark.parametrize("recipe", PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_counts_as_in_sentence_transformers(recipe: dict[str, Any], tmp_path: Path) -> None:
    prompt = "query: "
    path = making.encoder(tmp_path / "model", prompts={"query": prompt}, **recipe)
    wanted = reference(path).encode(list(TEXTS), prompt_name="query")
    agree(ours(path, prompt=prompt), wanted)


def test_the_default_prompt_of_the_manifest_is_the_one_that_sentence_transformers_uses(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", prompts={"document": "passage: "}, default_prompt="document")
    manifest = making.generation(path).manifest
    assert manifest.default_prompt_name is not None
    prompt = manifest.prompts[manifest.default_prompt_name]
    agree(ours(path, prompt=prompt), reference(path).encode(list(TEXTS)))


def test_one_batch_may_mix_texts_with_prompts_of_different_lengths(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", include_prompt=False)
    generation = making.generation(path)
    tokenizer = Tokenizer(generation)
    prompts = ("query: ", "", "the storage ring in the source: ")
    batch = [tokenizer.encode([TEXTS[0]], prompt=prompt)[0] for prompt in prompts]
    found = encoder.load(generation, "cpu").embed(batch, [tokenizer.prompt_tokens(prompt) for prompt in prompts])
    library = reference(path)
    agree(found, np.stack([library.encode(TEXTS[0], prompt=prompt) for prompt in prompts]))


def test_unit_length_on_request_is_that_of_sentence_transformers(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", normalize=False)
    wanted = reference(path).encode(list(TEXTS), normalize_embeddings=True, truncate_dim=7)
    agree(encoder.finish(ours(path), normalize=True, dimensions=7), wanted)


def test_the_files_of_a_made_model_are_those_that_sentence_transformers_saves(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", dense=16, layer_norm=True, prompts={"query": "query: "})
    reference(path).save(str(tmp_path / "saved"), create_model_card=False)
    names = ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "3_LayerNorm/config.json")
    for name in (*names, "4_Normalize/config.json", "sentence_bert_config.json"):
        made, saved = Path(path, name), tmp_path / "saved" / name
        assert json.loads(made.read_text()) == json.loads(saved.read_text())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "qwen3"])
def test_vectors_on_a_gpu_are_those_of_sentence_transformers_on_the_cpu(family: str, tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", family=family, include_prompt=False)
    wanted = reference(path).encode(list(TEXTS), prompt="query: ")
    agree(ours(path, prompt="query: ", device="cuda"), wanted)


TOKEN_TEXTS = tuple(text for text in TEXTS if text)


@pytest.mark.parametrize("recipe", ["mean", "cls", "dense, layer norm", "old spelling, folder", "plain", "float16"])
def test_token_vectors_are_those_of_sentence_transformers(recipe: str, tmp_path: Path) -> None:
    demand_token_vectors(making.encoder(tmp_path / "model", **RECIPES[recipe]))


@pytest.mark.parametrize("family", ["roberta", "distilbert", "mpnet", "modernbert", "t5", "xlm-roberta", "deberta-v2"])
def test_token_vectors_of_other_families_are_those_of_sentence_transformers(family: str, tmp_path: Path) -> None:
    demand_token_vectors(making.encoder(tmp_path / "model", family=family))


def test_token_vectors_of_the_real_minilm_are_those_of_sentence_transformers(minilm: str) -> None:
    demand_token_vectors(minilm)


def demand_token_vectors(path: str) -> None:
    generation = making.generation(path)
    loaded = encoder.load(generation, "cpu")
    rows = Tokenizer(generation).encode(TOKEN_TEXTS)
    found = loaded.token_vectors(rows)
    wanted = reference(path).encode(list(TOKEN_TEXTS), output_value="token_embeddings")
    assert [vectors.shape for vectors in found] == [(len(row), generation.manifest.width) for row in rows]
    for vectors, theirs in zip(found, wanted, strict=True):
        agree(vectors, theirs.numpy()[: len(vectors)])
