"""Searching a knowledge base as it grows: time, recall against a full comparison, memory and disk.

    python -m bench --parts knowledge

The vectors lie in groups, as those of real texts do; the words are drawn as often as words are (Zipf). All of it
happens in a process of its own, whose memory is that of a store and of the vectors that it is compared with.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.setting import Setting
from gateway.ask import extra
from gateway.ask.lance import LanceStore
from gateway.ask.passage import Chunk, Document, Index, Where, chunk_id, document_id
from gateway.ask.store import Store

DIM: Final = 384
SIZES: Final = (5_000, 20_000, 50_000, 100_000)
QUICK: Final = (2_000, 20_000)
QUERIES: Final = 300
GROUPS: Final = 500
SPREAD: Final = 0.6  # of a text around the middle of its group, whose numbers spread by 1
BATCH: Final = 1_000  # chunks of a document, put in one step
WORDS: Final = 20_000
LENGTH: Final = 60  # words of a chunk
NEAREST: Final = 10
MEMORY: Final = 2**30  # bytes that an index may take where it is held

Floats = NDArray[np.float32]


def run(setting: Setting) -> dict[str, Any]:
    """`rows`, one for each size: seconds, bytes, and shares of the true neighbours that were found."""
    sizes = QUICK if setting.quick else SIZES
    command = [sys.executable, "-m", "bench.knowledge", str(setting.own("knowledge")), *map(str, sizes)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {"dim": DIM, "queries": QUERIES, "rows": json.loads(answer.stdout)}


async def grown(folder: Path, sizes: list[int]) -> list[dict[str, Any]]:
    store = extra.store(str(folder / "store"))
    await store.open()
    row = await store.create("", "bench")
    index = await store.create_index(row.kb, "bench", "0" * 64, DIM)
    rng = np.random.default_rng(1)
    middles = rng.standard_normal((GROUPS, DIM)).astype(np.float32)
    vectors = _near(rng, middles, sizes[-1])
    words = _Words(rng)
    empty, rows, done = _resident(), [], 0
    for size in sizes:
        began, cpu = time.perf_counter(), time.process_time()
        for first in range(done, size, BATCH):
            await _put(store, index, vectors[first : min(first + BATCH, size)], first // BATCH, words)
        put = time.perf_counter() - began
        began, cpu = time.perf_counter(), time.process_time()
        await store.finish(index)
        finish = {"finish": time.perf_counter() - began, "finish_cpu": time.process_time() - cpu}
        queries = _near(rng, middles, QUERIES)
        found = await _searched(store, index, vectors[:size], queries, words)
        found |= await _held(folder / "store", index, queries, words)
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        rows.append(
            {"chunks": size, "put_per_second": (size - done) / put, **finish, **found}
            | {"resident": _resident(), "resident_empty": empty, "disk": disk, "raw": size * DIM * 4}
        )
        done = size
    await store.close()
    return rows


async def _put(store: Store, index: Index, vectors: Floats, number: int, words: _Words) -> None:
    name = f"document {number}"
    document = Document(
        id=document_id(name), name=name, source="", text="", metadata={"number": number}, digest=name, added=0.0
    )
    cut = [
        Chunk(id=chunk_id(document.id, n), document=document.id, index=n, start=0, end=0, text=words.some(LENGTH))
        for n in range(len(vectors))
    ]
    await store.upsert(index, [document], cut, vectors)


async def _searched(store: Store, index: Index, vectors: Floats, queries: Floats, words: _Words) -> dict[str, Any]:
    """`vector`, `hybrid`, `filtered` and `brute` have p50 and p99 in seconds; one search at a time."""
    asked = list(zip(queries, [words.some(8) for _ in queries], strict=True))
    filters = [Where(metadata={"number": n % (len(vectors) // BATCH)}) for n in range(len(queries))]
    truth, brute = _exact(vectors, queries)
    found, vector = await _timed(lambda n: store.search(index, asked[n][0], None, NEAREST), len(asked))
    _, hybrid = await _timed(lambda n: store.search(index, *asked[n], NEAREST), len(asked))
    few, filtered = await _timed(lambda n: store.search(index, asked[n][0], None, NEAREST, filters[n]), len(asked))
    places = {chunk_id(document_id(f"document {n // BATCH}"), n % BATCH): n for n in range(len(vectors))}
    same = [len({places[hit.chunk.id] for hit in hits} & set(true)) for hits, true in zip(found, truth, strict=True)]
    return {
        "recall": sum(same) / (NEAREST * len(queries)),
        "vector": vector,
        "hybrid": hybrid,
        "filtered": filtered,
        "filtered_short": sum(len(hits) < NEAREST for hits in few),
        "brute": brute,
    }


async def _held(folder: Path, index: Index, queries: Floats, words: _Words) -> dict[str, Any]:
    """`held` is as `hybrid`, once another opening of the store holds the index in memory, which is made in `held_made`
    seconds and takes `held_bytes`."""
    store = LanceStore(str(folder), memory=MEMORY)
    await store.open()
    asked = [words.some(8) for _ in queries]
    began = time.perf_counter()
    await store.search(index, queries[0], asked[0], NEAREST)
    await store.settled()
    made = time.perf_counter() - began
    _, held = await _timed(lambda n: store.search(index, queries[n], asked[n], NEAREST), len(asked))
    taken = store.memory_bytes
    await store.close()
    return {"held": held, "held_made": made, "held_bytes": taken}


def _exact(vectors: Floats, queries: Floats) -> tuple[list[list[int]], dict[str, float]]:
    """The true neighbours by cosine, and how long numpy takes for them."""
    unit, nearest, seconds = vectors / np.linalg.norm(vectors, axis=1, keepdims=True), [], []
    for query in queries:
        began = time.perf_counter()
        scores = unit @ query
        nearest.append(np.argpartition(-scores, NEAREST)[:NEAREST].tolist())
        seconds.append(time.perf_counter() - began)
    return nearest, _quantiles(seconds)


async def _timed(search: Callable[[int], Awaitable[Any]], count: int) -> tuple[list[Any], dict[str, float]]:
    await search(0)  # what only the first one pays: opening files
    found, seconds = [], []
    for number in range(count):
        began = time.perf_counter()
        found.append(await search(number))
        seconds.append(time.perf_counter() - began)
    return found, _quantiles(seconds)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    return {"p50": float(np.quantile(seconds, 0.5)), "p99": float(np.quantile(seconds, 0.99))}


def _near(rng: np.random.Generator, middles: Floats, count: int) -> Floats:
    noise = rng.standard_normal((count, DIM), dtype=np.float32) * np.float32(SPREAD)
    made: Floats = middles[rng.integers(0, len(middles), count)] + noise
    return made


class _Words:
    """Texts of words that are as unequally frequent as words are."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._drawn = self._draw(rng)

    def some(self, count: int) -> str:
        return " ".join(next(self._drawn) for _ in range(count))

    def _draw(self, rng: np.random.Generator) -> Iterator[str]:
        weights = 1 / np.arange(1, WORDS + 1)
        while True:
            yield from (f"w{word}" for word in rng.choice(WORDS, 100_000, p=weights / weights.sum()).tolist())


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(grown(Path(sys.argv[1]), [int(size) for size in sys.argv[2:]]))))
