"""One index in memory, as one version of its table has it: searched exactly, many queries at once.

It finds what LanceDB finds in that version, with the same scores: `tests/ask/test_resident.py` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gateway.ask import columns, labels, words
from gateway.ask.fusion import RANK, depth
from gateway.ask.passage import Hit, Where
from gateway.ask.postings import Postings
from gateway.ask.store import Candidates, Choose, Vectors, as_found

TOGETHER: Final = 16  # queries of one product: their scores are [TOGETHER, rows]
READ: Final = 4096  # rows that are kept as they were last given
LABEL_BYTES: Final = 150  # of a label or an id in a dictionary, roughly

Places = NDArray[np.int64]


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """As `Store.search` has them."""

    vector: NDArray[Any] | None
    text: str | None
    limit: int
    where: Where | None = None
    choose: Choose = as_found


class Resident:
    """`table` has `columns.HELD`. Used by one thread at a time."""

    def __init__(self, table: pa.Table, dim: int) -> None:
        self._vectors = np.ascontiguousarray(columns.vectors_of(table, dim))
        lengths = np.linalg.norm(self._vectors, axis=1)
        self._inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        ids = table["id"].to_numpy()
        self._places = {each: place for place, each in enumerate(ids.tolist())}
        self._order = np.empty(len(ids), dtype=np.int64)  # of the ids, for hits that are equally good
        self._order[np.argsort(ids.astype(str))] = np.arange(len(ids))
        self._labelled = _labelled(table["labels"])
        self._postings = Postings(table["text"])
        self._rows = table.select(columns.SHOWN).combine_chunks()
        self._all = np.arange(len(ids))
        self._sums = np.zeros(len(ids))  # for `_fused`, and zeros between its calls
        self._read: dict[int, Hit] = {}
        known = LABEL_BYTES * (len(ids) + len(self._labelled)) + sum(each.nbytes for each in self._labelled.values())
        self.bytes = self._vectors.nbytes + self._rows.nbytes + self._postings.bytes + known + 28 * len(ids)

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """The hits of each."""
        found: list[list[Hit]] = []
        for first in range(0, len(queries), TOGETHER):
            part = queries[first : first + TOGETHER]
            found += [self._hits(query, near) for query, near in zip(part, self._cosines(part), strict=True)]
        return found

    def vectors(self, chunks: Sequence[str]) -> Vectors:
        """As `Store.vectors`."""
        made = np.zeros((len(chunks), self._vectors.shape[1]), dtype=np.float32)
        for position, chunk in enumerate(chunks):
            if (place := self._places.get(chunk)) is not None:
                made[position] = self._vectors[place]
        return made

    def _cosines(self, queries: Sequence[Query]) -> list[NDArray[np.float32] | None]:
        """[rows] of each query with a vector, all by one product."""
        asked = [np.asarray(query.vector, dtype=np.float32) for query in queries if query.vector is not None]
        if not asked:
            return [None] * len(queries)
        lengths = [float(np.linalg.norm(each)) for each in asked]
        units = np.stack([each / (length or 1) for each, length in zip(asked, lengths, strict=True)])
        products = iter(np.clip(units @ self._vectors.T * self._inverse, -1, 1))
        return [None if query.vector is None else next(products) for query in queries]

    def _hits(self, query: Query, near: NDArray[np.float32] | None) -> list[Hit]:
        allowed = self._allowed(query.where)
        said = self._postings.scores(words.of_text(query.text)) if query.text else None
        deep = depth(query.limit) if near is not None and said is not None else query.limit
        orders = []
        if near is not None:
            orders.append(self._best(near, self._all if allowed is None else allowed, deep))
        if said is not None:
            having = np.flatnonzero(said) if allowed is None else allowed[said[allowed] > 0]
            orders.append(self._best(said, having, deep))
            said = _only(said, orders[-1])
        places, scores = self._fused(orders, query.limit)
        candidates = Candidates(scores, _of(near, places), _of(said, places))
        return [self._hit(int(places[each]), near, said, score) for each, score in query.choose(candidates)]

    def _allowed(self, where: Where | None) -> Places | None:
        """The rows that have what is wanted, in order; None for all."""
        allowed: Places | None = None
        none = np.empty(0, dtype=np.int64)
        for group in labels.wanted(where):
            having = np.unique(np.concatenate([self._labelled.get(label, none) for label in group] or [none]))
            allowed = having if allowed is None else np.intersect1d(allowed, having, assume_unique=True)
        return allowed

    def _best(self, scores: NDArray[np.float32], among: Places, count: int) -> Places:
        """The rows with the highest scores, best first."""
        of_these = scores[among]
        if len(among) > count:
            kept = np.argpartition(-of_these, count - 1)[:count]
            among, of_these = among[kept], of_these[kept]
        return among[np.lexsort((self._order[among], -of_these))]

    def _fused(self, orders: Sequence[Places], limit: int) -> tuple[Places, NDArray[np.float64]]:
        """As `fusion.fused`: rows, best first, and their scores."""
        if not orders:
            return np.empty(0, dtype=np.int64), np.empty(0)
        if len(orders) == 1:
            return orders[0][:limit], _ranks(len(orders[0]))[:limit]
        first, second = orders
        sums = self._sums
        sums[first] = _ranks(len(first))
        places = np.concatenate((first, second[sums[second] == 0]))
        sums[second] += _ranks(len(second))
        scores = sums[places]
        sums[places] = 0
        best = np.lexsort((self._order[places], -scores))[:limit]
        return places[best], scores[best]

    def _hit(self, place: int, near: NDArray[np.float32] | None, said: NDArray[np.float32] | None, score: float) -> Hit:
        read = self._read.get(place)
        if read is None:
            if len(self._read) == READ:
                self._read.clear()
            read = self._read[place] = columns.hit_of(self._rows.slice(place, 1).to_pylist()[0], None, None, 0.0)
        return Hit(
            chunk=read.chunk,
            name=read.name,
            source=read.source,
            metadata=read.metadata,
            cosine=None if near is None else float(near[place]),
            bm25=None if said is None or not said[place] else float(said[place]),
            fused=score,
        )


def _labelled(lists: pa.ChunkedArray) -> dict[str, Places]:
    """The rows that have each label, in order."""
    whole = lists.combine_chunks()
    coded = whole.flatten().dictionary_encode()
    counts = whole.value_lengths().fill_null(0).to_numpy()
    rows, codes = np.repeat(np.arange(len(counts)), counts), coded.indices.to_numpy()
    sorted_rows = rows[np.argsort(codes, kind="stable")]
    parts = np.split(sorted_rows, np.cumsum(np.bincount(codes, minlength=len(coded.dictionary)))[:-1])
    return dict(zip(coded.dictionary.to_pylist(), parts, strict=False))


@lru_cache(64)
def _ranks(count: int) -> NDArray[np.float64]:
    """What the hits of an order add to a fused score."""
    ranks: NDArray[np.float64] = 1 / (RANK + np.arange(1, count + 1))
    ranks.flags.writeable = False
    return ranks


def _only(scores: NDArray[np.float32], places: Places) -> NDArray[np.float32]:
    kept = np.zeros_like(scores)
    kept[places] = scores[places]
    return kept


def _of(scores: NDArray[np.float32] | None, places: Places) -> NDArray[np.float64] | None:
    return None if scores is None else scores[places].astype(np.float64)
