"""The ids are those that sentence-transformers feeds, from any number of threads."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from gateway.errors import InputTooLong, InvalidInput, LoadFailed
from gateway.host.tokenize import Tokenizer
from gateway.host.wire import Side
from gateway.model import Generation
from tests import making

TEXTS = ("the beam", "", "É Klystron TRIP! [SEP] 光束", "laser " * 300, " \n the\u200bring ")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return making.encoder(tmp_path_factory.mktemp("volume") / "model", max_tokens=16)


def changed_copy(path: str, to: Path) -> tuple[Path, Generation]:
    """A copy to spoil, and the generation that it was before."""
    copy = shutil.copytree(path, to)
    return copy, msgspec.structs.replace(making.generation(path), path=str(copy))


@pytest.fixture(scope="module")
def tokenizer(path: str) -> Tokenizer:
    return Tokenizer(making.generation(path))


def library_ids(
    path: str, texts: tuple[str, ...], prompt: str | None = None, side: str | None = None
) -> list[list[int]]:
    library = SentenceTransformer(path, device="cpu", local_files_only=True)
    if side is not None:
        library.tokenizer.truncation_side = side
    features = library.preprocess(list(texts), prompt=prompt)
    rows = zip(features["input_ids"].tolist(), features["attention_mask"].tolist(), strict=True)
    return [ids[: sum(mask)] for ids, mask in rows]


def as_lists(rows: list[np.ndarray]) -> list[list[int]]:
    return [row.tolist() for row in rows]


@pytest.mark.parametrize("family", ["bert", "mpnet", "roberta", "modernbert", "xlm-roberta", "t5"])
def test_ids_are_those_of_sentence_transformers_special_tokens_and_cut_included(family: str, tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", family=family, max_tokens=16)
    tokenizer = Tokenizer(making.generation(path))
    assert as_lists(tokenizer.encode(TEXTS)) == library_ids(path, TEXTS)
    assert as_lists(tokenizer.encode(TEXTS, prompt="query: ")) == library_ids(path, TEXTS, "query: ")


def test_the_truncation_and_padding_stored_in_tokenizer_json_do_not_count(minilm: str) -> None:
    """The file of all-MiniLM-L6-v2 pads and cuts to 128; the model takes 256."""
    assert json.loads((Path(minilm) / "tokenizer.json").read_text())["truncation"]["max_length"] == 128
    tokenizer = Tokenizer(making.generation(minilm))
    assert [len(ids) for ids in tokenizer.encode(["laser " * 300, "laser"])] == [256, 3]
    assert as_lists(tokenizer.encode(TEXTS)) == library_ids(minilm, TEXTS)


def test_a_text_of_exactly_the_limit_is_not_too_long(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(["beam " * 14], truncate=False)[0]) == 16


def test_a_text_over_the_limit_is_refused_with_its_index_and_lengths_when_it_may_not_be_cut(
    tokenizer: Tokenizer,
) -> None:
    with pytest.raises(InputTooLong, match="input 1 has 102 tokens, and the model takes 16") as caught:
        tokenizer.encode(["beam", "beam " * 100], truncate=False)
    assert caught.value.details == {"index": 1, "tokens": 102, "max_tokens": 16}


def test_refusing_a_long_text_changes_nothing_for_the_next_call(tokenizer: Tokenizer) -> None:
    before = as_lists(tokenizer.encode(TEXTS))
    with pytest.raises(InputTooLong):
        tokenizer.encode(TEXTS, truncate=False)
    assert as_lists(tokenizer.encode(TEXTS)) == before


def test_half_a_surrogate_pair_is_invalid_input_with_its_index(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInput, match="input 1 holds half of a surrogate pair"):
        tokenizer.encode(["beam", "\ud83d"])


def test_a_text_without_any_token_is_invalid_input(path: str, tmp_path: Path) -> None:
    copy, generation = changed_copy(path, tmp_path / "model")
    stored = json.loads((copy / "tokenizer.json").read_text())
    stored["post_processor"] = None  # and with it the special tokens
    (copy / "tokenizer.json").write_text(json.dumps(stored))
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "TokenizersBackend"}))
    tokenizer = Tokenizer(generation)
    assert len(tokenizer.encode(["beam"])[0]) == 1
    with pytest.raises(InvalidInput, match="input 1 has no tokens"):
        tokenizer.encode(["beam", "  "])


@pytest.mark.parametrize("prompt", ["query: ", "the beam in the ring", "laser " * 40, "[SEP]", " "])
@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
def test_the_length_of_a_prompt_is_that_of_sentence_transformers(prompt: str, family: str, tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", family=family, max_tokens=16)
    features = SentenceTransformer(path, device="cpu", local_files_only=True).preprocess(["a"], prompt=prompt)
    assert Tokenizer(making.generation(path)).prompt_tokens(prompt) == features["prompt_length"]


def test_no_prompt_has_no_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.prompt_tokens("") == 0


def test_do_lower_case_lowers_before_a_cased_tokenizer(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", lower=False, lower_case=True, spelling="old")
    tokenizer = Tokenizer(making.generation(path))
    upper, lower = tokenizer.encode(["BEAM Ring", "beam ring"])
    assert upper.tolist() == lower.tolist()
    assert as_lists(tokenizer.encode(TEXTS)) == library_ids(path, TEXTS)


def test_one_tokenizer_serves_many_threads(tokenizer: Tokenizer) -> None:
    alone = as_lists(tokenizer.encode(TEXTS))

    def turn(number: int) -> list[list[int]]:
        if number % 2:
            with pytest.raises(InputTooLong):
                tokenizer.encode(TEXTS, truncate=False)
        return as_lists(tokenizer.encode(TEXTS))

    with ThreadPoolExecutor(4) as threads:
        assert all(found == alone for found in threads.map(turn, range(64)))


def test_a_tokenizer_that_cannot_be_read_fails_the_load(path: str, tmp_path: Path) -> None:
    copy, generation = changed_copy(path, tmp_path / "model")
    (copy / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(LoadFailed) as caught:
        Tokenizer(generation)
    assert caught.value.details["reason"] == "tokenizer_unreadable"


def test_a_tokenizer_over_which_its_library_panics_fails_the_load(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "right", family="xlm-roberta")
    copy, generation = changed_copy(path, tmp_path / "model")
    content = json.loads((copy / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(LoadFailed, match="precompiled_charsmap") as caught:
        Tokenizer(generation)
    assert caught.value.details["reason"] == "tokenizer_unreadable"


@pytest.mark.parametrize("family", ["bert", "mpnet", "roberta", "modernbert", "xlm-roberta", "t5"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_too_long_is_cut_on_the_side_that_is_asked_for(family: str, side: Side, tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model", family=family, max_tokens=16)
    texts = (*TEXTS, "[CLS] <s> " + "the beam of a ring " * 9, "a laser, " * 2000 + "the end of the photon")
    tokenizer = Tokenizer(making.generation(path))
    assert as_lists(tokenizer.encode(texts, side=side)) == library_ids(path, texts, side=side)
    assert as_lists(tokenizer.encode(texts, prompt="the ", side=side)) == library_ids(path, texts, "the ", side)


def test_a_tokenizer_that_cuts_on_the_left_does_so_unless_it_is_asked_otherwise(path: str, tmp_path: Path) -> None:
    copy, generation = changed_copy(path, tmp_path / "copy")
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation_side": "left"}))
    tokenizer = Tokenizer(generation)
    texts = (*TEXTS, "the beam of a ring " * 9)
    for side in (None, "left", "right"):
        assert as_lists(tokenizer.encode(texts, side=side)) == library_ids(path, texts, side=side or "left")


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "t5"])
def test_ids_get_the_special_tokens_that_they_lack(family: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(making.generation(making.encoder(tmp_path / "model", family=family)))
    whole = as_lists(tokenizer.encode(["the beam", "laser"]))
    frame = tokenizer.frame
    bare = [ids[len(frame.head) : len(ids) - len(frame.tail)] for ids in whole]
    half = [[*ids, *frame.tail] for ids in bare]
    for rows in (whole, bare, half):
        assert as_lists(tokenizer.encode_ids(rows)) == whole


def test_ids_over_the_limit_are_cut_on_either_side_or_refused(tokenizer: Tokenizer) -> None:
    ids = list(range(5, 25))
    assert as_lists(tokenizer.encode_ids([ids])) == [[2, *range(5, 19), 3]]
    assert as_lists(tokenizer.encode_ids([[2, *ids, 3]], side="left")) == [[2, *range(11, 25), 3]]
    assert as_lists(tokenizer.encode_ids([ids[:14]], truncate=False)) == [[2, *range(5, 19), 3]]
    with pytest.raises(InputTooLong) as caught:
        tokenizer.encode_ids([[5], ids], truncate=False)
    assert caught.value.details == {"index": 1, "tokens": 22, "max_tokens": 16}


def test_no_ids_are_an_empty_text(tokenizer: Tokenizer) -> None:
    assert as_lists(tokenizer.encode_ids([[]])) == as_lists(tokenizer.encode([""]))
