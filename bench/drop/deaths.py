"""`kill -9` of a gateway while documents come in over HTTP, and while a knowledge base follows a swap of its model.

    python -m bench.drop.deaths --kills 50 --out reports/deaths.json

After each, another gateway is started on the same state, and asked: what was acknowledged is there, or what came after
it; what was deleted is not; no document is half, in the store or in the index; each search is answered by one
generation, whose own vectors give the scores that it names; and the base comes to the generation that is live. Exit
status 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from bench.drop.endurance.progress import Progress
from bench.drop.endurance.served import DEADLINE, GLANCE, Broken, Served, orphans
from gateway.ask.passage import document_id
from tests import families, making
from trainer.publish import publish

MODEL: Final = "finetuned/hot"
BASE: Final = "papers"
CONTENTS: Final = 4
NAMES: Final = tuple(f"d{number}.txt" for number in range(48))
WORDS: Final = 150  # of a document: three chunks, or more
BITE: Final = 8  # documents of a request
CLIENTS: Final = 3  # that put documents in, each its own
DELETED: Final = 0.15  # of the requests delete
QUERIES: Final = 3
KINDS: Final = ("ingestion", "reindex")
INGESTION: Final = 1.2  # seconds after the first acknowledgement in which the kill comes
SPREAD: Final = 1.5  # kills fall into this many times what a re-index takes
LEAST: Final = 0.05  # seconds
CLOSE: Final = 1e-3  # of two cosines that are the same: an answer has six digits, an index rounds nothing
ORPHAN_SECONDS: Final = 60.0  # a busy machine takes its time to end them
OPTIONS: Final = ("--device=cpu", f"--default-model={MODEL}")

Version = int | None  # None: the document is not there


def text_of(name: str, version: int) -> str:
    """Words that the models know, which differ in every document and version."""
    chance = random.Random(f"{name} {version}")
    return " ".join(chance.choice(families.WORDS) for _ in range(WORDS)) + f" version {version}."


# --- what is known, and what is wrong


class Told:
    """What each document may be: what was acknowledged last, and whatever was begun since. `indexed` has those that
    were said to be found, and that nothing was begun with since."""

    def __init__(self) -> None:
        self.may: dict[str, set[Version]] = {name: {None} for name in NAMES}
        self.indexed: dict[str, int] = {}
        self.acknowledged = 0

    def begin(self, name: str, version: Version) -> None:
        self.may[name].add(version)
        self.indexed.pop(name, None)

    def end(self, name: str, version: Version, *, found: bool) -> None:
        self.may[name] = {version}
        self.acknowledged += 1
        if found and version is not None:
            self.indexed[name] = version


def lost(told: Told, stored: dict[str, dict[str, Any]]) -> list[str]:
    """Documents as `GET .../documents/{id}` shows them, by name: those that are not what they may be."""
    found = []
    for name, may in told.may.items():
        document = stored.get(name)
        version = document["metadata"]["version"] if document else None
        if version not in may:
            found.append(f"{name} is in version {version}, and may be in {sorted(may, key=str)}")
        elif document is None or version is None:
            continue
        elif document["text"] != text_of(name, version):
            found.append(f"{name} is half")
        elif told.indexed.get(name) == version and not whole(document):
            found.append(f"{name} was said to be found, and is not")
    return found


def whole(document: dict[str, Any]) -> bool:
    """Whether its chunks, laid over each other, are the document."""
    reached = 0
    for chunk in sorted(document["chunks"], key=lambda chunk: chunk["start"]):
        if chunk["start"] > reached:
            return False
        reached = max(reached, chunk["end"])
    return reached == len(document["text"])


def torn(hits: list[dict[str, Any]]) -> list[str]:
    """Hits that are no part of the version that they name."""
    return [
        f"a hit of {hit['name']} is not of its version {hit['metadata']['version']}"
        for hit in hits
        if hit["text"] != text_of(hit["name"], hit["metadata"]["version"])[hit["start"] : hit["end"]]
    ]


def mixed(hits: list[dict[str, Any]], vectors: np.ndarray[Any, Any], generation: str) -> list[str]:
    """Hits whose score is not what the vectors of the generation, of the query and then of each hit, come to."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        f"a hit of {hit['name']} has a cosine of {hit['score']}, and {generation} gives it {cosine}"
        for hit, cosine in zip(hits, (units[1:] @ units[0]).tolist(), strict=True)
        if abs(hit["score"] - cosine) > CLOSE
    ]


# --- who kills and looks


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    unfinished: Counter[str] = field(default_factory=Counter)  # kills after which there was something to be made up
    swaps: int = 0
    documents_read: int = 0
    hits: int = 0
    to_listening: list[float] = field(default_factory=list)
    to_right: list[float] = field(default_factory=list)  # until all is indexed, by the generation that is live


class Deaths:
    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.tally = Tally()
        self.told = Told()
        self.faults: list[str] = []
        self._volume = folder / "models"
        self._state = folder / "state"
        self._chance = chance
        self.version = 0
        self._contents = [
            Path(making.encoder(folder / f"made/{seed}", seed=seed, dim=16, layers=1, heads=2))
            for seed in range(CONTENTS)
        ]
        self._next = 1
        self._took = LEAST
        self._last = ""
        self._volume.mkdir(parents=True)

    def serve(self) -> Served:
        return Served(self._volume, self._state, *OPTIONS)

    async def first(self) -> None:
        """A life that ends well enough: the base is made, and a re-index is timed."""
        publish(self._contents[0], MODEL, self._volume)
        async with self.serve() as served:
            await served.until_ready()
            await self._live(served)
            for first in range(0, len(NAMES), BITE):
                await self._put(served, list(NAMES[first : first + BITE]), "")
            began = await self._swap(served)
            await self._right(served)
            self._took = max(LEAST, time.monotonic() - began)

    async def one(self, kind: str) -> None:
        """A life: what the last one was killed in is looked at, and then this one is killed in `kind`."""
        began = time.monotonic()
        async with self.serve() as served:
            await self._look(served, began)
            running = asyncio.ensure_future(self._ingest(served) if kind == "ingestion" else self._swap(served))
            if kind == "ingestion":
                await self._acknowledged()
                await asyncio.sleep(self._chance.random() * INGESTION)
            else:
                await running
                await asyncio.sleep(self._chance.random() * SPREAD * self._took)
            await served.kill()
            with contextlib.suppress(aiohttp.ClientError, OSError):  # the clients see the connection break
                await running
        self.tally.kills[kind] += 1
        self._last = kind
        if left := await orphans(served.pid, ORPHAN_SECONDS):
            raise served.broken(f"processes that outlived the gateway: {left}")
        self.faults += [f"alarm: {each}" for each in served.alarms]

    async def last(self) -> None:
        """The life after the last kill."""
        began = time.monotonic()
        async with self.serve() as served:
            await self._look(served, began)

    # What is done.

    async def _ingest(self, served: Served) -> None:
        await asyncio.gather(*(self._client(served, NAMES[number::CLIENTS]) for number in range(CLIENTS)))

    async def _client(self, served: Served, own: tuple[str, ...]) -> None:
        """Until the connection breaks."""
        while True:
            names = self._chance.sample(own, BITE)
            if self._chance.random() < DELETED:
                await self._delete(served, names[0])
            else:
                await self._put(served, names, self._chance.choice(("", "?wait=false")))

    async def _put(self, served: Served, names: list[str], query: str) -> None:
        self.version += 1
        version = self.version
        documents = [
            {"name": name, "content": text_of(name, version), "metadata": {"version": version}} for name in names
        ]
        for name in names:
            self.told.begin(name, version)
        try:
            answer = await served.post(f"/kb/{BASE}/documents{query}", {"documents": documents})
        except Broken:  # refused, on a machine that is busy: nothing was acknowledged
            return
        for name in names:
            self.told.end(name, version, found=answer["state"] == "ready")

    async def _delete(self, served: Served, name: str) -> None:
        self.told.begin(name, None)
        async with served.session.delete(f"/kb/{BASE}/documents/{document_id(name)}") as answer:
            if answer.status not in {200, 404}:
                raise served.broken(f"deleting {name}: {answer.status} {await answer.text()}")
        self.told.end(name, None, found=False)

    async def _swap(self, served: Served) -> float:
        """Other content, until the base begins to follow it; -> when that was."""
        before = (await served.get(f"/kb/{BASE}"))["generation"]
        await asyncio.to_thread(publish, self._contents[self._next % CONTENTS], MODEL, self._volume)
        self._next += 1
        self.tally.swaps += 1
        async with asyncio.timeout(DEADLINE):
            while True:
                shown = await served.get(f"/kb/{BASE}")
                if shown["reindex"] is not None or shown["generation"] != before:
                    return time.monotonic()
                await asyncio.sleep(GLANCE)

    async def _acknowledged(self) -> None:
        """Once anything of this life was."""
        before = self.told.acknowledged
        async with asyncio.timeout(DEADLINE):
            while self.told.acknowledged == before:
                await asyncio.sleep(GLANCE)

    # What must be true.

    async def _look(self, served: Served, began: float) -> None:
        self.tally.to_listening.append(time.monotonic() - began)
        shown, stored = await served.get(f"/kb/{BASE}"), await self._stored(served)
        self._fault(lost(self.told, stored))
        behind = shown["generation"] != await self._live(served) or not all(map(whole, stored.values()))
        self.tally.unfinished[self._last] += behind
        await served.until_ready()
        for _ in range(QUERIES):
            self._fault(await self._search(served))
        await self._right(served)
        self.tally.to_right.append(time.monotonic() - began)
        stored = await self._stored(served)
        self._fault(lost(self.told, stored))
        self._fault([f"{name} is not whole in the index" for name, each in stored.items() if not whole(each)])
        chunks = sum(len(each["chunks"]) for each in stored.values())
        shown = await served.get(f"/kb/{BASE}")
        if shown["chunks"] != chunks or shown["failed"]:
            self._fault([f"{shown['chunks']} chunks, and the documents have {chunks}; failed: {shown['failed']}"])
        self._fault(await self._search(served))
        for name in NAMES:  # what was begun, and not acknowledged, has come or has not
            version = stored[name]["metadata"]["version"] if name in stored else None
            self.told.may[name] = {version}

    async def _right(self, served: Served) -> None:
        """Until the base is answered by the generation that is live, and has nothing left to do."""
        shown: dict[str, Any] = {}
        try:
            async with asyncio.timeout(DEADLINE):
                while shown.get("generation") != await self._live(served) or shown["pending"] or shown["reindex"]:
                    await asyncio.sleep(GLANCE)
                    shown = await served.get(f"/kb/{BASE}")
        except TimeoutError:
            raise served.broken(f"the base never came right: {shown}") from None

    async def _live(self, served: Served) -> str:
        async with asyncio.timeout(DEADLINE):
            while True:
                entry = await served.listed(MODEL)
                if entry is not None and entry["generation"]:
                    return str(entry["generation"])
                await asyncio.sleep(GLANCE)

    async def _stored(self, served: Served) -> dict[str, dict[str, Any]]:
        listed = (await served.get(f"/kb/{BASE}/documents"))["documents"]
        self.tally.documents_read += len(listed)
        return {each["name"]: await served.get(f"/kb/{BASE}/documents/{each['id']}") for each in listed}

    async def _search(self, served: Served) -> list[str]:
        query = " ".join(self._chance.choices(families.WORDS, k=6))
        found = await served.post(f"/kb/{BASE}/search", {"query": query, "limit": 10})
        hits, generation = found["hits"], found["generation"]
        self.tally.hits += len(hits)
        texts = [query, *(hit["text"] for hit in hits)]
        made = await served.post("/embed", {"inputs": texts, "model": f"{MODEL}@{generation}"})
        found_nothing = [] if hits else ["the index finds nothing"]
        return found_nothing + torn(hits) + mixed(hits, np.array(made["embeddings"]), generation)

    def _fault(self, found: list[str]) -> None:
        self.faults += [f"after {sum(self.tally.kills.values())} kills, in {self._last}: {each}" for each in found]


async def torture(
    folder: Path,
    kills: int,
    *,
    seed: int = 0,
    quiet: bool = True,
    told: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """What was found; `told` hears it after every kill. Raises Broken where a gateway does not come back at all."""
    deaths, progress = Deaths(folder, random.Random(seed)), Progress("deaths", kills, quiet=quiet)
    await deaths.first()
    for number in range(kills):
        await deaths.one(KINDS[number % len(KINDS)])
        progress.show(number + 1)
        told(_report(deaths, seed))
    await deaths.last()
    return _report(deaths, seed)


def _report(deaths: Deaths, seed: int) -> dict[str, Any]:
    tally = deaths.tally
    return {
        "kills": dict(tally.kills),
        "left_something_to_make_up": dict(tally.unfinished),
        "acknowledged": deaths.told.acknowledged,
        "versions": deaths.version,
        "swaps": tally.swaps,
        "documents_read": tally.documents_read,
        "hits": tally.hits,
        "seconds_to_listening": _spread(tally.to_listening),
        "seconds_to_right": _spread(tally.to_right),
        "seed": seed,
        "faults": deaths.faults,
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [0.0]
    return {"p50": round(ordered[len(ordered) // 2], 2), "longest": round(ordered[-1], 2)}


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--kills", type=int, default=50)
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--out", type=Path)
    options = top.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="deaths-"))

    def told(report: dict[str, Any]) -> None:
        if options.out:
            options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    try:
        report = asyncio.run(torture(folder, options.kills, seed=options.seed, quiet=False, told=told))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    told(report)
    print(json.dumps(report, indent=1))
    return int(bool(report["faults"]))


if __name__ == "__main__":
    sys.exit(main())
