"""The scores are those of sentence-transformers' CrossEncoder, whatever the family and the files beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer

from gateway.errors import InputTooLong, InvalidInput, LoadFailed
from gateway.host import encoder, pairs, reranker, runtimes, stages
from gateway.host.frame import LOWER, TYPE_BIT
from gateway.host.tokenize import Tokenizer
from gateway.model import Generation
from gateway.volume.architectures import RERANKERS
from gateway.wish import AUTO, Wish
from tests import making

QUERY = "where is the beam of the ring stored?"
TEXTS = (
    "the beam is in the storage ring",
    "laser",
    "A Klystron power supply TRIP alarm!",
    "Éü 光束, undulator 😀 - x-ray",
    "",
    "photon electron beam magnet " * 100,
    "source " * 50,
    "the light [SEP] source",
)
CLOSE = 1e-5

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, identity": {"activation": "torch.nn.modules.linear.Identity"},
    "plain, tanh": {"activation": "torch.nn.modules.activation.Tanh"},
    "before 4.0": {"config": {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}},
    "saved": {"form": "saved"},
    "saved, identity": {"form": "saved", "activation": "torch.nn.modules.linear.Identity"},
    "half precision": {"dtype": "float16"},
}


def scores(generation: Generation, query: str = QUERY, texts: tuple[str, ...] = TEXTS, **options: Any) -> np.ndarray:
    loaded = encoder.load(generation, "cpu")
    found = loaded.embed(pairs.encode(Tokenizer(generation), query, texts, **options))
    return stages.activated(found, generation.manifest.activation)[:, 0]


def wanted(path: str, query: str = QUERY, side: str = "right") -> np.ndarray:
    model = CrossEncoder(path, device="cpu", model_kwargs={"dtype": torch.float32})
    model.tokenizer.truncation_side = side
    return model.predict([(query, text) for text in TEXTS])


@pytest.mark.parametrize("family", sorted(RERANKERS))
def test_the_scores_of_every_family_are_those_of_a_cross_encoder(family: str, tmp_path: Path) -> None:
    path = making.reranker(tmp_path / "model", family=family)
    found = scores(making.generation(path))
    assert np.abs(found - wanted(path)).max() <= CLOSE
    assert np.ptp(found) > 100 * CLOSE


@pytest.mark.parametrize("form", FORMS)
def test_the_scores_do_not_depend_on_how_the_files_say_it(form: str, tmp_path: Path) -> None:
    path = making.reranker(tmp_path / "model", **FORMS[form])
    assert np.abs(scores(making.generation(path)) - wanted(path)).max() <= CLOSE


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert", "modernbert"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("query", ["beam", "where is the beam? " * 9, "a long question of photon magnet " * 50])
def test_what_is_too_long_is_cut_as_a_cross_encoder_cuts_it(family: str, side: Any, query: str, tmp_path: Path) -> None:
    path = making.reranker(tmp_path / "model", family=family)
    found = scores(making.generation(path), query, side=side)
    assert np.abs(found - wanted(path, query, side)).max() <= CLOSE


def test_a_score_does_not_depend_on_what_shared_its_batch(tmp_path: Path) -> None:
    generation = making.generation(making.reranker(tmp_path / "model"))
    rows = pairs.encode(Tokenizer(generation), QUERY, TEXTS)
    loaded = encoder.load(generation, "cpu")
    alone = np.concatenate([loaded.embed([row]) for row in rows])
    assert np.abs(loaded.embed(rows) - alone).max() <= CLOSE


def test_a_pair_over_the_limit_is_refused_where_it_may_not_be_cut(tmp_path: Path) -> None:
    tokenizer = Tokenizer(making.generation(making.reranker(tmp_path / "model", max_tokens=16)))
    assert [len(row) for row in pairs.encode(tokenizer, "beam " * 6, ["ring " * 7], truncate=False)] == [16]
    with pytest.raises(InputTooLong) as caught:
        pairs.encode(tokenizer, "beam " * 6, ["ring", "ring " * 8], truncate=False)
    assert caught.value.details == {"index": 1, "tokens": 17, "max_tokens": 16}


def test_half_of_a_surrogate_pair_is_refused_where_it_stands(tmp_path: Path) -> None:
    tokenizer = Tokenizer(making.generation(making.reranker(tmp_path / "model")))
    with pytest.raises(InvalidInput, match="input 1 holds half") as caught:
        pairs.encode(tokenizer, "beam", ["ring", "\ud800"])
    assert caught.value.details == {"index": 1}
    with pytest.raises(InvalidInput, match="the query holds half"):
        pairs.encode(tokenizer, "\ud800", ["ring"])


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_pair_of_megabytes_has_the_ids_that_the_library_gives_it(family: str, side: Any, tmp_path: Path) -> None:
    path = making.reranker(tmp_path / "model", family=family)
    tokenizer, library = Tokenizer(making.generation(path)), AutoTokenizer.from_pretrained(path, truncation_side=side)
    short, long = "where is the beam?", "a laser, " * 20_000 + "the end of the photon"
    for query, text in ((short, long), (long, short), (long, long)):
        (row,) = pairs.encode(tokenizer, query, [text], side=side)
        # the library's own pair of two long texts has as many overflowing parts as there are pairs of theirs
        parts = [part[:5000] if side == "right" else part[-5000:] for part in (query, text)]
        wanted = library(*parts, truncation="longest_first", max_length=64)
        assert (row & LOWER).tolist() == wanted["input_ids"]
        assert (row >> TYPE_BIT).tolist() == wanted.get("token_type_ids", [0] * len(row))


@pytest.mark.parametrize("gone", ["classifier.weight", "bert.pooler.dense.weight"])
def test_a_reranker_that_lacks_a_tensor_of_its_head_fails_the_load(gone: str, tmp_path: Path) -> None:
    generation = making.generation(making.reranker(tmp_path / "model"))
    change(generation, lambda tensors: tensors.pop(gone))
    with pytest.raises(LoadFailed, match=gone):
        encoder.load(generation, "cpu")


def change(generation: Generation, how: Any) -> None:
    file = Path(generation.path, "model.safetensors")
    tensors = load_file(file)
    how(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda tensors: tensors["classifier.bias"].fill_(float("nan")), "probe_not_finite"),
        (lambda tensors: tensors["classifier.weight"].fill_(0.0), "probe_same"),
    ],
)
def test_the_probe_refuses_scores_that_nobody_could_use(how: Any, reason: str, tmp_path: Path) -> None:
    generation = making.generation(making.reranker(tmp_path / "model"))
    change(generation, how)
    with pytest.raises(LoadFailed) as caught:
        encoder.probe(encoder.load(generation, "cpu"), Tokenizer(generation), generation.manifest)
    assert caught.value.details["reason"] == reason


def test_the_probe_accepts_a_sound_reranker(tmp_path: Path) -> None:
    generation = making.generation(making.reranker(tmp_path / "model"))
    encoder.probe(encoder.load(generation, "cpu"), Tokenizer(generation), generation.manifest)


@pytest.mark.parametrize("wish", [Wish("torch", "bfloat16"), Wish("openvino", "float32"), Wish(AUTO, "int8")])
def test_a_reranker_that_is_wished_otherwise_is_computed_by_torch_in_float32_and_says_so(
    wish: Wish, tmp_path: Path
) -> None:
    generation = making.generation(making.reranker(tmp_path / "model"))
    failures = runtimes.Failures()
    chosen = runtimes.load(generation, wish, "cpu", failures)
    assert (chosen.numerics.runtime, chosen.numerics.dtype) == ("torch", "float32")
    assert "reranker" in chosen.numerics.fell_back
    assert [failure.message for failure in failures.news()] == [chosen.numerics.fell_back]


def test_half_precision_weights_of_a_reranker_are_computed_in_float32_on_any_device(tmp_path: Path) -> None:
    generation = making.generation(making.reranker(tmp_path / "model", dtype="float16"))
    for device in ("cpu", "cuda"):
        assert runtimes.choose(Wish(AUTO, AUTO), generation.manifest, device) == runtimes.EXACT


def test_a_tokenizer_that_gives_types_to_a_network_with_one_is_not_obeyed(tmp_path: Path) -> None:
    """Else the token type 1 would be read from beyond the table of types."""
    path = making.reranker(tmp_path / "model", family="roberta")
    generation = making.generation(path)
    tokenizer = Tokenizer(generation)
    plain = pairs.encode(tokenizer, QUERY, TEXTS)
    tokenizer.__dict__["pair_frame"] = dataclasses.replace(tokenizer.pair_frame, second=1 << TYPE_BIT)
    typed = pairs.encode(tokenizer, QUERY, TEXTS)
    assert any((row >> TYPE_BIT).any() for row in typed)
    loaded = encoder.load(generation, "cpu")
    assert isinstance(loaded._network, reranker.Scoring)
    np.testing.assert_array_equal(loaded.embed(typed), loaded.embed(plain))


def test_a_reranker_has_one_score_and_no_stages(tmp_path: Path) -> None:
    manifest = making.generation(making.reranker(tmp_path / "model")).manifest
    assert (manifest.kind, manifest.dim, manifest.stages, manifest.activation) == ("reranker", 1, (), "Sigmoid")
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=type(manifest)) == manifest
