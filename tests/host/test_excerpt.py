"""Reading the beginning of a text is reading the text, as far as its first tokens go."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from gateway.errors import InputTooLong
from gateway.host.excerpt import can_be_cut, excerpt
from gateway.host.tokenize import Tokenizer as Ours
from tests import making

FAMILIES = ("bert", "mpnet", "roberta", "xlm-roberta", "t5", "modernbert", "qwen3")
PIECES = st.sampled_from(
    (
        *("beam", "ring ", "a ", "7", "42 ", "x-ray", "!", "...", "'s", " ", "  ", "\n", "\t", "\u200b"),
        *(
            "e\u0301",
            "\u0301",
            "\u00c9",
            "\u5149\u675f",
            "\u0600",
            "\ufb01",
            "\u1100\u1161",
            "\U0001f468\u200d\U0001f469",
        ),
        *("[SEP]", "<mask>", "</s>", "\u2581", "##ing"),
    )
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ours]:
    folder = tmp_path_factory.mktemp("families")
    made = {family: making.encoder(folder / family, family=family, max_tokens=16) for family in FAMILIES}
    return {family: Ours(making.generation(path)) for family, path in made.items()}


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(PIECES, min_size=1, max_size=40), at=st.integers(0, 60))
def test_the_tokens_of_the_beginning_are_the_first_tokens_of_the_whole(
    family: str, pieces: list[str], at: int, tokenizers: dict[str, Ours]
) -> None:
    backend = tokenizers[family]._backend
    text = "".join(pieces)
    assert can_be_cut(backend)
    beginning, whole = (
        [encoding.ids, *(part.ids for part in encoding.overflowing)]
        for encoding in backend.encode_batch_fast([excerpt(text, at), text])
    )
    assert beginning[:-1] == whole[: len(beginning) - 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_of_a_megabyte_has_the_ids_that_it_had_before(family: str, tokenizers: dict[str, Ours]) -> None:
    tokenizer = tokenizers[family]
    texts = ["beam in the ring " * 60_000, "  \n" * 30_000 + "the ring " * 1000, "laser" * 20_000, "beam " * 12]
    expected = [encoding.ids for encoding in tokenizer._backend.encode_batch_fast(texts)]
    assert [ids.tolist() for ids in tokenizer.encode(texts)] == expected


def test_a_megabyte_is_not_read_to_its_end(tokenizers: dict[str, Ours]) -> None:
    """Half of a surrogate pair, which no tokenizer takes, stands at the end and is never seen."""
    text = "beam in the ring " * 60_000 + "\ud83d"
    assert len(tokenizers["bert"].encode([text])[0]) == 16


def test_a_text_that_was_not_read_to_its_end_is_refused_with_the_least_that_it_has(
    tokenizers: dict[str, Ours],
) -> None:
    with pytest.raises(InputTooLong, match=r"input 1 has at least \d+ tokens, and the model takes 16") as caught:
        tokenizers["bert"].encode(["beam", "beam " * 100_000], truncate=False)
    assert 16 < caught.value.details["tokens"] <= 100_002


def test_a_long_text_of_few_tokens_is_not_too_long(tokenizers: dict[str, Ours]) -> None:
    text = "beam" + " " * 100_000 + "ring"
    assert len(tokenizers["bert"].encode([text], truncate=False)[0]) == 4


@pytest.mark.parametrize("text", ["", "beam", "beam ring", " beam", "光束 光束", "beam\nring"])
def test_without_a_safe_place_the_text_stays_whole(text: str) -> None:
    assert excerpt(text, 5) == text


def plain() -> Tokenizer:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def test_a_plain_tokenizer_can_be_given_a_part_of_a_text() -> None:
    assert can_be_cut(plain())


def test_one_that_looks_further_cannot() -> None:
    unusual = [plain() for _ in range(7)]
    unusual[0].add_tokens([AddedToken("light source")])
    unusual[1].enable_truncation(8, direction="left")
    unusual[2].normalizer = normalizers.Replace(Regex("beam *$"), "")
    unusual[3].pre_tokenizer = pre_tokenizers.Split(Regex("beam ring"), "isolated")
    unusual[4].pre_tokenizer = pre_tokenizers.ByteLevel(use_regex=False)
    unusual[5].pre_tokenizer = None
    unusual[6].model = models.BPE({"a": 0}, [], dropout=0.5)
    assert not any(map(can_be_cut, unusual))


def test_a_kind_that_cannot_be_cut_is_read_whole(tokenizers: dict[str, Ours], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, text = tokenizers["roberta"], "beam " * 3000
    expected = tokenizer.encode([text])[0].tolist()
    monkeypatch.setattr(tokenizer, "_can_be_cut", False)
    assert tokenizer.encode([text])[0].tolist() == expected
    with pytest.raises(InputTooLong) as caught:
        tokenizer.encode([text], truncate=False)
    assert caught.value.details["tokens"] > 3000
