"""What a tokenizer says of a text can be found in the text, character by character."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from gateway.errors import InvalidInput
from gateway.host import spelling
from gateway.host.tokenize import Tokenizer
from gateway.host.wire import Token
from tests import making

TEXTS = ("the beam", "", "😀 光束 is a Éclair 𝛾-ray", "laser beam photon " * 40, "the [SEP] ring")
FAMILIES = ["bert", "mpnet", "roberta", "modernbert", "xlm-roberta", "t5", "qwen3"]


def made(path: Path, family: str = "bert") -> tuple[Tokenizer, Any]:
    """Ours, and that of transformers."""
    model = making.encoder(path / "model", family=family, max_tokens=16)
    return Tokenizer(making.generation(model)), transformers.AutoTokenizer.from_pretrained(model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("special", [True, False])
def test_tokens_are_those_of_transformers_at_the_same_places_and_none_is_cut(
    family: str, special: bool, tmp_path: Path
) -> None:
    tokenizer, library = made(tmp_path, family)
    for text, tokens in zip(TEXTS, spelling.tokens(tokenizer, TEXTS, add_special_tokens=special), strict=True):
        wanted = library(text, add_special_tokens=special, return_offsets_mapping=True, return_special_tokens_mask=True)
        assert [token.id for token in tokens] == wanted["input_ids"]
        places = [(token.start or 0, token.stop or 0) for token in tokens]
        assert places == wanted["offset_mapping"]
        assert [token.text for token in tokens if token.special] == library.convert_ids_to_tokens(
            [token.id for token in tokens if token.special]
        )
        assert all(token.text == text[token.start : token.stop] for token in tokens if not token.special)


def test_places_are_counted_in_characters_not_in_bytes(tmp_path: Path) -> None:
    tokenizer, _ = made(tmp_path)
    (tokens,) = spelling.tokens(tokenizer, ["😀 光束 beam é"])
    assert [(token.text, token.start, token.stop) for token in tokens[1:-1]] == [
        ("😀", 0, 1),
        ("光", 2, 3),
        ("束", 3, 4),
        ("beam", 5, 9),
        ("é", 10, 11),
    ]
    assert tokens[0] == Token(2, "[CLS]", True, None, None)
    assert tokens[-1] == Token(3, "[SEP]", True, None, None)


def test_a_prompt_is_a_part_of_the_text(tmp_path: Path) -> None:
    tokenizer, _ = made(tmp_path)
    found = spelling.tokens(tokenizer, ["beam", "ring"], prompt="query: ")
    assert found == spelling.tokens(tokenizer, ["query: beam", "query: ring"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ids_of_the_tokens_are_the_ids_that_the_text_is_computed_from(family: str, tmp_path: Path) -> None:
    tokenizer, _ = made(tmp_path, family)
    spelled = [[token.id for token in tokens] for tokens in spelling.tokens(tokenizer, TEXTS)]
    for side in ("left", "right"):
        wanted = [row.tolist() for row in tokenizer.encode(TEXTS, side=side)]
        assert [row.tolist() for row in tokenizer.encode_ids(spelled, side=side)] == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_decoded_to_their_text(family: str, tmp_path: Path) -> None:
    tokenizer, _ = made(tmp_path, family)
    rows = [[token.id for token in tokens] for tokens in spelling.tokens(tokenizer, ["the beam", "laser laser"])]
    assert tokenizer.decode(rows, skip_special_tokens=True) == ["the beam", "laser laser"]
    whole = tokenizer.decode(rows, skip_special_tokens=False)
    assert all(text in shown and shown != text for shown, text in zip(whole, ["the beam", "laser laser"], strict=True))


def test_half_of_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    tokenizer, _ = made(tmp_path)
    with pytest.raises(InvalidInput, match="input 1 holds half"):
        spelling.tokens(tokenizer, ["beam", "\ud83d"])
