"""Does a knowledge base survive `kill -9`? A writer puts documents, indexes them, builds the next index and switches to
it, without end; it is killed at a random moment, many times, and each time everything is looked at.

    python -m bench.drop.kills --kills 50 --out reports/kills.json

Nothing that was acknowledged may be lost, nothing half may be seen, and the store must open. Exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

import numpy as np

from gateway.ask import extra
from gateway.ask.passage import Chunk, Document, Index, Row, chunk_id, document_id
from gateway.ask.store import Store

DIM: Final = 16
NAMES: Final = 12  # documents, which are replaced over and over
CHUNKS: Final = 8
BASE: Final = "kills"
KB: Final = f"/{BASE}"
MOMENT: Final = 0.05  # seconds; a kill comes at most so long after an acknowledgement, in the midst of what follows


def document(name: str, version: int) -> Document:
    """All its lines say which version it is."""
    text = f"{name} in version{version}\n" * CHUNKS
    return Document(
        id=document_id(name),
        name=name,
        source="",
        text=text,
        metadata={"version": version},
        digest=hashlib.sha256(text.encode()).hexdigest(),
        added=float(version),
    )


def chunks(of: Document) -> list[Chunk]:
    width = len(of.text) // CHUNKS
    return [
        Chunk(
            id=chunk_id(of.id, place),
            document=of.id,
            index=place,
            start=place * width,
            end=(place + 1) * width,
            text=of.text[place * width : (place + 1) * width],
        )
        for place in range(CHUNKS)
    ]


# --- the writer, a process of its own


async def write(folder: str) -> None:
    """Each line that it prints is something that it was told is done."""
    store = extra.store(folder)
    await store.open()
    rows = await store.rows()
    row = rows[0] if rows else await store.create("", BASE)
    version = 1 + max((int(head.metadata["version"]) for head in await store.list_documents(row.kb)), default=0)
    while True:
        live = (await store.row(row.kb)).live
        put = document(f"d{version % NAMES}", version)
        await store.put_documents(row.kb, [put])
        _say("document", put.name, version)
        if live is not None:
            await indexed(store, live, [put])
            _say("indexed", put.name, version)
        if version % 5 == 0 or live is None:
            await _follow(store, row.kb)
        version += 1


async def _follow(store: Store, kb: str) -> None:
    """Builds the next index of all documents, switches to it, and drops those before the last but one."""
    row = await store.row(kb)
    index = await store.create_index(kb, "model", "generation", DIM)
    for head in await store.list_documents(kb):
        await indexed(store, index, [await store.get_document(kb, head.id)])
    await store.finish(index)
    if await store.switch(kb, row.version, index):
        _say("switched", index.id, 0)
    row = await store.row(kb)
    keep = {found.id for found in (row.live, *row.previous[:1]) if found is not None}
    for old in await store.indexes(kb):
        if old.id not in keep:
            await store.drop_index(old)


async def indexed(store: Store, index: Index, documents: Sequence[Document]) -> None:
    cut = [chunk for each in documents for chunk in chunks(each)]
    vectors = np.random.default_rng(len(cut)).standard_normal((len(cut), DIM)).astype(np.float32)
    await store.upsert(index, documents, cut, vectors)


def _say(what: str, name: str, version: int) -> None:
    print(what, name, version, flush=True)


# --- who kills and looks


class Told:
    """What writers have said is done: the newest version of each document, and of each in the live index."""

    def __init__(self) -> None:
        self.documents: dict[str, int] = {}
        self.indexed: dict[str, int] = {}
        self.switches = 0
        self.acknowledged = 0

    def hear(self, line: str) -> None:
        what, name, version = line.split()
        self.acknowledged += 1
        if what == "switched":
            self.switches += 1
            self.indexed = dict(self.documents)
        else:
            told = self.documents if what == "document" else self.indexed
            told[name] = max(told.get(name, 0), int(version))


async def faults(store: Store, told: Told) -> list[str]:
    """What is wrong with the knowledge base: nothing, one hopes."""
    row = await store.row(KB)
    found = [fault for name, version in told.documents.items() for fault in await _lost(store, row, name, version)]
    for index in await store.indexes(KB):
        found += await halves(store, index)
    if row.live is None:
        return found + (["the switch was lost"] if told.switches else [])
    kept = await store.indexed(row.live)
    for name, version in told.indexed.items():
        current = await store.get_document(KB, document_id(name))
        if kept.get(current.id) not in {document(name, later).digest for later in range(version, version + NAMES + 1)}:
            found.append(f"{name} is not in the live index in version {version} or later")
    hits = await store.search(row.live, np.ones(DIM), "version", 5)
    return found if hits or not kept else [*found, "the live index finds nothing"]


async def _lost(store: Store, row: Row, name: str, version: int) -> list[str]:
    put = await store.get_document(row.kb, document_id(name))
    if put != document(name, int(put.metadata["version"])):
        return [f"{name} is half"]
    return [f"{name} lost version {version}"] if int(put.metadata["version"]) < version else []


async def halves(store: Store, index: Index) -> list[str]:
    """Documents of an index that have not all their chunks, or chunks of two versions."""
    seen: dict[str, list[str]] = {}
    for chunk in await store.chunks(index):
        seen.setdefault(chunk.document, []).append(chunk.text)
    whole = {name for name, texts in seen.items() if len(texts) == CHUNKS and len(set(texts)) == 1}
    return [f"{name} is half in index {index.id}" for name in seen.keys() - whole]


def kill_one(folder: str, told: Told, rng: random.Random) -> None:
    """One writer's life: it is killed a moment after one of its acknowledgements."""
    command = [sys.executable, "-m", "bench.drop.kills", "--write", folder]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(rng.randint(1, 40)):
        if not (line := writer.stdout.readline()):
            raise RuntimeError("the writer ended by itself")
        told.hear(line)
    time.sleep(rng.uniform(0, MOMENT))
    writer.kill()
    _rest(writer.stdout, told)
    writer.wait()


def _rest(output: IO[str], told: Told) -> None:
    """What it still said before it was killed; a line without an end was not said."""
    for line in output:
        if line.endswith("\n"):
            told.hear(line)


async def torture(folder: str, kills: int, seed: int = 0) -> dict[str, object]:
    told, rng, found = Told(), random.Random(seed), []
    for number in range(kills):
        await asyncio.to_thread(kill_one, folder, told, rng)
        store = extra.store(folder)
        await store.open()
        found += [f"kill {number}: {fault}" for fault in await faults(store, told)]
        await store.close()
    return {"kills": kills, "acknowledged": told.acknowledged, "switches": told.switches, "faults": found}


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--kills", type=int, default=50)
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--out", type=Path)
    top.add_argument("--write", metavar="FOLDER", help=argparse.SUPPRESS)
    options = top.parse_args()
    if options.write:
        asyncio.run(write(options.write))
        return 0
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        report = asyncio.run(torture(folder, options.kills, options.seed))
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return int(bool(report["faults"]))


if __name__ == "__main__":
    sys.exit(main())
