"""The special tokens that a tokenizer puts around a text, or around the two of a pair: found once, by encoding one.

Who has them can put texts together from ids alone: cut on either side, sent by a client, or a query that is tokenized
once for all of its pairs. Each text is tokenized by itself in any case; only the special tokens know of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

TokenIds = npt.NDArray[np.int64]
Row = list[int]

ANY_TEXT: Final = "the 1 a ."  # of which every vocabulary has something
TYPE_BIT: Final = 32  # from which on a token of a pair says whether it is of the second text
LOWER: Final = (1 << TYPE_BIT) - 1


@dataclass(frozen=True, slots=True)
class Frame:
    """Around one text."""

    head: Row
    tail: Row

    def __len__(self) -> int:
        return len(self.head) + len(self.tail)

    def without(self, ids: Row) -> Row:
        """The text alone, of ids that may have some of the special tokens already."""
        begin = len(self.head) if self.head and ids[: len(self.head)] == self.head else 0
        end = len(ids) - len(self.tail)
        whole = not self.tail or end < begin or ids[end:] != self.tail
        return ids[begin:] if whole else ids[begin:end]

    def around(self, ids: Row, most: int, side: str) -> TokenIds:
        """At most `most` tokens; what is too much is cut on this side."""
        return np.array([*self.head, *cut(ids, max(0, most - len(self)), side), *self.tail], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class PairFrame:
    """Around two texts. The token type of each token stands in its upper half: see `types`."""

    head: Row
    between: Row
    tail: Row
    first: int  # what its type adds to a token of the first text
    second: int

    def __len__(self) -> int:
        return len(self.head) + len(self.between) + len(self.tail)

    def around(self, one: Row, other: Row, most: int, side: str) -> TokenIds:
        """At most `most` tokens: where it is too much the longer one is cut first."""
        ours, theirs = longest_first(len(one), len(other), max(0, most - len(self)))
        begin, end = len(self.head), len(self.head) + ours
        row = [*self.head, *cut(one, ours, side), *self.between, *cut(other, theirs, side), *self.tail]
        found = np.array(row, dtype=np.int64)
        found[begin:end] += self.first
        begin = end + len(self.between)
        found[begin : begin + theirs] += self.second
        return found


def of(backend: Backend) -> Frame:
    """The special tokens of a text."""
    encoding = backend.encode(ANY_TEXT)
    (begin, end), *_ = _spans(encoding, 1)
    return Frame(encoding.ids[:begin], encoding.ids[end:])


def of_pairs(backend: Backend, *, types: bool) -> PairFrame:
    """The special tokens of a pair; without `types` all tokens are of the same one."""
    encoding = backend.encode(ANY_TEXT, ANY_TEXT)
    ids = [id | (kind << TYPE_BIT if types else 0) for id, kind in zip(encoding.ids, encoding.type_ids, strict=True)]
    (begin, end), (begin_other, end_other) = _spans(encoding, 2)
    first, second = (ids[at] - encoding.ids[at] if at < len(ids) else 0 for at in (begin, begin_other))
    return PairFrame(ids[:begin], ids[end:begin_other], ids[end_other:], first, second)


def cut(ids: Row, most: int, side: str) -> Row:
    """Without what is too much, which is cut on this side."""
    return ids[:most] if side == "right" else ids[max(0, len(ids) - most) :]


def longest_first(one: int, other: int, most: int) -> tuple[int, int]:
    """How much is kept of two texts of these lengths, so that both together are at most `most`.

    Source: truncate_encodings in tokenizers, strategy LongestFirst.
    """
    short, long = sorted((one, other))
    if short + long > most:
        long = short if short > most else max(short, most - short)
        if short + long > most:
            short = most // 2
            long = most - short
    return (short, long) if one <= other else (long, short)


def _spans(encoding: Encoding, texts: int) -> list[tuple[int, int]]:
    """Where the tokens of each text begin and end."""
    owners = encoding.sequence_ids
    return [_span(owners, number) for number in range(texts)]


def _span(owners: Sequence[int | None], number: int) -> tuple[int, int]:
    places = [place for place, owner in enumerate(owners) if owner == number]
    return (places[0], places[-1] + 1) if places else (len(owners), len(owners))
