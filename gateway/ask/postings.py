"""Which texts have a word, and what it is worth there: BM25 (Robertson and Zaragoza 2009), in arrays.

What a word adds to a text's score does not depend on the query, so it is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gateway.ask import words

K: Final = 1.2  # how soon more of one word count no more
B: Final = 0.75  # how much long texts are held against their words
WORD_BYTES: Final = 120  # of a word in a dictionary, roughly


class Postings:
    """Of `texts`, which are counted from 0."""

    def __init__(self, texts: pa.ChunkedArray) -> None:
        self._count = len(texts)
        rows, occurring, self._numbers = words.of_texts(texts)
        found, times = np.unique(occurring * max(1, self._count) + rows, return_counts=True)
        of_word, self._rows = np.divmod(found, max(1, self._count))
        self._starts = np.searchsorted(of_word, np.arange(len(self._numbers) + 1))
        lengths = np.bincount(rows, minlength=self._count)
        self._worth = self._weighed(times, lengths).astype(np.float32)
        self._rows = self._rows.astype(np.int32)
        self.bytes = self._rows.nbytes + self._worth.nbytes + self._starts.nbytes + WORD_BYTES * len(self._numbers)

    def _weighed(self, times: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        having = np.diff(self._starts)
        rare = np.log(1 + (self._count - having + 0.5) / (having + 0.5))
        relative = lengths / (lengths.mean() or 1.0) if self._count else lengths
        share = times * (K + 1) / (times + K * (1 - B + B * relative[self._rows]))
        worth: NDArray[np.float64] = share * np.repeat(rare, having)
        return worth

    def scores(self, asked: Iterable[str]) -> NDArray[np.float32]:
        """[number of texts]; 0 for those that have none of the words."""
        numbers = [number for word in asked if (number := self._numbers.get(word)) is not None]
        if not numbers:
            return np.zeros(self._count, dtype=np.float32)
        parts = [slice(self._starts[number], self._starts[number + 1]) for number in numbers]
        rows, worth = (np.concatenate([each[part] for part in parts]) for each in (self._rows, self._worth))
        return np.bincount(rows, worth, self._count).astype(np.float32)
