"""Texts put together from ids are what the tokenizer itself makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.host import frame
from gateway.host.frame import TYPE_BIT, Frame

WORDS = {word: number for number, word in enumerate(["[UNK]", "[A]", "[B]", "[C]", "a", "the", "1", ".", "x"])}
TEMPLATES = {
    "bert": ("[A] $A [B]", "[A] $A [B] $B:1 [B]:1"),
    "roberta": ("[A] $A [B]", "[A] $A [B] [B] $B [B]"),
    "behind alone": ("$A [B]", "$A [B] $B [B]"),
    "many": ("[A] [B] $A [C]", "[A]:1 [B] $A:0 [C] [B] $B:1 [C] [A]:1"),
    "none": ("$A", "$A $B"),
}


def backend(template: str) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    single, pair = TEMPLATES[template]
    specials = [(name, WORDS[name]) for name in ("[A]", "[B]", "[C]")]
    made.post_processor = tokenizers.processors.TemplateProcessing(single=single, pair=pair, special_tokens=specials)
    return made


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    template=st.sampled_from(sorted(TEMPLATES)),
    words=st.tuples(st.integers(0, 14), st.integers(0, 14)),
    most=st.integers(8, 24),
    side=st.sampled_from(["left", "right"]),
)
def test_a_pair_is_framed_and_cut_as_the_tokenizer_does_it(
    template: str, words: tuple[int, int], most: int, side: str
) -> None:
    whole = backend(template)
    texts = [" ".join(["the", "a", "1", "x", "."][place % 5] for place in range(count)) for count in words]
    ids = [whole.encode(text, add_special_tokens=False).ids for text in texts]
    found = frame.of_pairs(whole, types=True).around(*ids, most, side)
    alone = frame.of(whole).around(ids[0], most, side)
    whole.enable_truncation(most, strategy="longest_first", direction=side)
    wanted = whole.encode(*texts)
    assert (found & frame.LOWER).tolist() == wanted.ids
    assert (found >> TYPE_BIT).tolist() == wanted.type_ids
    assert alone.tolist() == whole.encode(texts[0]).ids


def test_without_types_all_tokens_of_a_pair_are_of_one() -> None:
    row = frame.of_pairs(backend("bert"), types=False).around([4], [5, 6], 10, "right")
    assert row.tolist() == [1, 4, 2, 5, 6, 2]


@pytest.mark.parametrize("ids", [[4, 5], [1, 4, 5], [4, 5, 2], [1, 4, 5, 2]])
def test_special_tokens_are_taken_off_where_they_are(ids: list[int]) -> None:
    made = frame.of(backend("bert"))
    assert (made, len(made)) == (Frame([1], [2]), 2)
    assert made.without(ids) == [4, 5]


@pytest.mark.parametrize(("ids", "bare"), [([], []), ([1], []), ([2], []), ([1, 2], []), ([1, 1, 2, 2], [1, 2])])
def test_one_of_each_is_taken_off_and_no_more(ids: list[int], bare: list[int]) -> None:
    assert Frame([1], [2]).without(ids) == bare
    assert Frame([], []).without(ids) == ids


def test_the_one_token_of_a_frame_is_not_taken_off_twice() -> None:
    assert Frame([1], [1]).without([1]) == []
    assert Frame([1], [1]).without([1, 1, 1]) == [1]


def test_a_frame_that_fills_the_model_leaves_no_room_for_a_text() -> None:
    for side in ("left", "right"):
        np.testing.assert_array_equal(Frame([1], [2]).around([4, 5], 2, side), [1, 2])
