"""Texts laid end to end: every token once, in its place, whatever the lengths."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.host import segments
from gateway.host.segments import Group

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=30)
PAD = 1


def batch(lengths: list[int]) -> list[segments.Integers]:
    """Texts whose tokens say which text they are of, and where."""
    return [np.arange(length, dtype=np.int64) + 100 * (text + 1) for text, length in enumerate(lengths)]


def to_eights(rows: int) -> int:
    return -(-rows // 8) * 8


def as_it_is(rows: int) -> int:
    return rows


@given(LENGTHS)
def test_every_text_lies_whole_in_the_group_of_its_length(lengths: list[int]) -> None:
    texts = batch(lengths)
    laid = segments.lay(texts, to_eights)
    found = [row for group in laid.groups for row in laid.ids[group.begin : group.end].reshape(group.count, -1)]
    assert sorted(laid.order.tolist()) == list(range(len(texts)))
    for text, row in zip(laid.order, found, strict=True):
        np.testing.assert_array_equal(row, texts[text])
    assert len({group.length for group in laid.groups}) == len(laid.groups)


@given(LENGTHS)
def test_rows_are_as_many_as_was_said_and_the_last_ones_fill_up(lengths: list[int]) -> None:
    laid = segments.lay(batch(lengths), to_eights)
    assert len(laid.ids) == to_eights(sum(lengths))
    assert (laid.ids[sum(lengths) :] == segments.FILLER).all()
    assert laid.groups[-1].end == sum(lengths)


@given(LENGTHS)
def test_places_count_from_nought_in_every_text(lengths: list[int]) -> None:
    laid = segments.lay(batch(lengths), to_eights)
    assert laid.places()[: sum(lengths)].tolist() == (laid.ids % 100)[: sum(lengths)].tolist()
    assert len(laid.places()) == len(laid.ids)


def test_tokens_that_are_skipped_have_no_place_and_do_not_move_the_next_text() -> None:
    texts = [np.array([5, PAD, 6]), np.array([7, 8]), np.array([PAD, 9, PAD])]
    laid = segments.lay(texts, to_eights)
    assert laid.order.tolist() == [1, 0, 2]
    assert laid.counted(PAD).tolist() == [1, 2, 1, 0, 2, 0, 1, 0]


def test_without_skipped_tokens_places_are_counted_from_one() -> None:
    laid = segments.lay(batch([2, 3]), as_it_is)
    assert laid.counted(PAD).tolist() == [1, 2, 1, 2, 3]


def test_texts_of_equal_length_are_one_group_in_their_order() -> None:
    laid = segments.lay(batch([4, 2, 4]), as_it_is)
    assert laid.groups == (Group(0, 1, 2), Group(2, 2, 4))
    assert laid.order.tolist() == [1, 0, 2]


@given(LENGTHS, st.integers(1, 8), st.integers(1, 40))
def test_parts_have_every_text_once_and_no_thread_much_more_than_the_mean(
    lengths: list[int], most: int, least: int
) -> None:
    parts = segments.parts(batch(lengths), most, least, slack=1.3)
    assert sorted(text for part in parts for text in part) == list(range(len(lengths)))
    assert len(parts) <= most
    if len(parts) > 1:
        tokens = [sum(lengths[text] for text in part) for part in parts]
        assert max(tokens) <= 1.3 * sum(lengths) / len(parts)
        assert sum(lengths) >= least * len(parts)


def test_equal_texts_are_divided_equally() -> None:
    assert [len(part) for part in segments.parts(batch([16] * 32), 2, 96, 1.3)] == [16, 16]


def test_one_long_text_among_short_ones_is_not_left_to_one_thread() -> None:
    assert len(segments.parts(batch([16, 16, 16, 500]), 2, 96, 1.3)) == 1
