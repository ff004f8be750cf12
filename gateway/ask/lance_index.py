"""One table of LanceDB as an index: its rows are chunks with their vectors, all of one generation.

Small tables are searched whole. From INDEXED rows on there is an IVF index: it is built in a second, which counts,
since every swap of a model builds one. The kinds that are made for speed (IVF_PQ, HNSW) miss half of the
neighbours as they come.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gateway.ask import columns, labels
from gateway.ask.forkless import FTS, AsyncTable, BTree, IvfSq, LabelList
from gateway.ask.fusion import cosines, depth, fused
from gateway.ask.passage import Hit, Index, Where
from gateway.ask.store import Candidates, Choose, as_found
from gateway.ask.tables import literal

INDEXED: Final = 20_000  # rows
GROWN: Final = 4  # times as many rows as an index was trained with, and it is trained anew
PARTITION: Final = 1000  # rows: 100,000 rows make 100 partitions
PROBES: Final = 20  # partitions that are searched at least; all of them, where a filter leaves too few rows
REFINED: Final = 2  # times as many candidates are compared by their exact vectors
TRIES: Final = 3
QUERY_CHARACTERS: Final = 4000  # of a text, for its words: a question is no document
VECTOR: Final = "vector_of_"  # and the number of rows that it was trained with


async def prepare(table: AsyncTable) -> None:
    """What a new table needs before it is written to."""
    await table.create_index("text", config=FTS(with_position=False), name="words")


async def train(table: AsyncTable) -> None:
    """Makes a large table fast; leaves a small one as it is."""
    rows = await table.count_rows()
    names = {found.name for found in await table.list_indices()}
    trained = [name for name in names if name.startswith(VECTOR)]
    if rows < INDEXED or any(rows < GROWN * int(name.removeprefix(VECTOR)) for name in trained):
        return
    config: Any = IvfSq(
        distance_type="cosine", num_partitions=max(1, rows // PARTITION)
    )  # accepted, and left out of the annotation of `config`
    await table.create_index("vector", config=config, name=f"{VECTOR}{rows}")
    for name in trained:
        await table.drop_index(name)
    if "labels" not in names:
        await table.create_index("labels", config=LabelList(), name="labels")
        await table.create_index("document", config=BTree(), name="document")


async def search(  # noqa: PLR0917  the arguments of Store.search, and whose they are
    table: AsyncTable,
    index: Index,
    vector: NDArray[Any] | None,
    text: str | None,
    limit: int,
    where: Where | None,
    choose: Choose = as_found,
) -> list[Hit]:
    for _ in range(TRIES):
        near, words = await _found(table, vector, text, limit, _condition(where))
        if _agree(near, words):
            break
    return _hits(index, vector, near, words, limit, choose)


async def _found(
    table: AsyncTable, vector: NDArray[Any] | None, text: str | None, limit: int, condition: str | None
) -> tuple[pa.Table | None, pa.Table | None]:
    deep = depth(limit) if vector is not None and text else limit
    near, words = await asyncio.gather(_near(table, vector, deep, condition), _words(table, text, deep, condition))
    return near, words


async def _near(table: AsyncTable, vector: NDArray[Any] | None, depth: int, condition: str | None) -> pa.Table | None:
    if vector is None:
        return None
    query = table.query().nearest_to(np.asarray(vector, dtype=np.float32)).distance_type("cosine")
    query = query.maximum_nprobes(0).minimum_nprobes(PROBES).refine_factor(REFINED)
    if condition is not None:
        query = query.where(condition)
    return await query.select([*columns.FOUND, "_distance"]).limit(depth).to_arrow()


async def _words(table: AsyncTable, text: str | None, depth: int, condition: str | None) -> pa.Table | None:
    if not text:
        return None
    query = table.query().nearest_to_text(text[:QUERY_CHARACTERS], columns=["text"])
    if condition is not None:
        query = query.where(condition)
    return await query.select([*columns.FOUND, "_score"]).limit(depth).to_arrow()


def _agree(near: pa.Table | None, words: pa.Table | None) -> bool:
    """Whether both saw the same state of each document: a write may have come between them."""
    if near is None or words is None:
        return True
    seen = dict(zip(near["document"].to_pylist(), near["digest"].to_pylist(), strict=True))
    pairs = zip(words["document"].to_pylist(), words["digest"].to_pylist(), strict=True)
    return all(seen.get(document, digest) == digest for document, digest in pairs)


def _hits(  # noqa: PLR0917  what was found, and what is wanted of it
    index: Index, vector: NDArray[Any] | None, near: pa.Table | None, words: pa.Table | None, limit: int, choose: Choose
) -> list[Hit]:
    """Best first, with exact cosines: those of an index are rounded, and what only words found has none."""
    places: dict[str, tuple[pa.Table, int]] = {}
    exact: dict[str, float] = {}
    for found in (words, near):
        if found is None:
            continue
        ids = found["id"].to_pylist()
        places |= {each: (found, place) for place, each in enumerate(ids)}
        if vector is not None:
            exact |= zip(ids, cosines(vector, columns.vectors_of(found, index.dim)).tolist(), strict=True)
    scores = {} if words is None else dict(zip(words["id"].to_pylist(), words["_score"].to_pylist(), strict=True))
    nearest = [] if near is None else sorted(near["id"].to_pylist(), key=lambda found: (-exact[found], found))
    order = fused(nearest, sorted(scores, key=lambda found: (-scores[found], found)))
    best = list(order)[:limit]
    candidates = Candidates(
        np.array([order[each] for each in best]),
        None if vector is None else np.array([exact[each] for each in best]),
        None if words is None else np.array([scores.get(each, 0.0) for each in best]),
    )
    hits = []
    for place, score in choose(candidates):
        found, row = places[best[place]]
        read = found.select(columns.SHOWN).slice(row, 1).to_pylist()[0]
        hits.append(columns.hit_of(read, exact.get(best[place]), scores.get(best[place]), score))
    return hits


def _condition(where: Where | None) -> str | None:
    groups = labels.wanted(where)
    if not groups:
        return None
    return " AND ".join(f"array_has_any(labels, [{', '.join(map(literal, group))}])" for group in groups)
