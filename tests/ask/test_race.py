"""A query's vector never meets an index of another generation: with a real host, real models and real swaps.

The models have the same dimension and other weights, so nothing but the numbers tells a mixture: a text finds itself
with a cosine of 1 only where both were made by the same generation.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from gateway import events, life
from gateway.app import Gateway
from gateway.ask.bases import KnowledgeBases
from gateway.ask.first_use import FirstUse
from gateway.ask.follow import Follow
from gateway.ask.holds import Holds
from gateway.ask.passage import Row
from gateway.ask.rebuild import Rebuild
from gateway.ask.retrieval import RetrieveRequest
from gateway.requests import EmbedRequest
from gateway.settings import Settings
from tests import making
from tests.ask.asked import SAME, LineCutter
from tests.ask.memory_store import MemoryStore
from tests.ask.stores import document
from tests.catalog.world import M
from tests.running import DEADLINE
from trainer.exchange import put_in_place

SWAPS = 20
QUERIES = 1000
AT_ONCE = 4
WORDS = ("beam", "dipole", "cavity", "vacuum", "pump", "magnet", "klystron", "orbit")
LINES = [f"{one} {other} {number}" for number, one in enumerate(WORDS) for other in WORDS if one != other]
DOCUMENTS = [document(f"d{number}", *LINES[number * 7 : number * 7 + 7]) for number in range(len(LINES) // 7)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("many")
    return [making.encoder(base / str(seed), seed=seed, layers=1) for seed in range(SWAPS + 1)]


class Knowing:
    """A gateway that runs, and its knowledge bases."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.store = MemoryStore()
        self.service = gateway.service
        held = Holds(gateway.settings.state_dir)
        gateway.catalog.hold(held.digests)
        opened, self.cutter = FirstUse(lambda: self.store, lambda: True), LineCutter()
        self.follow = Follow(opened, self.service, held, self.cutter, gateway.events)
        self.bases = KnowledgeBases(self.service, opened, held, self.cutter.label, self.follow)
        self.told = asyncio.Condition()
        self.heard: Counter[str] = Counter()
        gateway.events.subscribe(self._hear)

    def _hear(self, event: events.Event) -> None:
        self.heard[event.name] += 1
        self.gateway.spawn(self._tell())

    async def _tell(self) -> None:
        async with self.told:
            self.told.notify_all()

    async def until(self, done: Callable[[], bool]) -> None:
        """As soon as that is so after some event."""
        async with asyncio.timeout(DEADLINE), self.told:
            await self.told.wait_for(done)

    async def drop(self, source: str) -> None:
        """New content of the model, by a rename or an exchange: it is never away. Until it is live."""
        target = Path(self.gateway.settings.models_dir, M)
        before = self._live()
        fresh = target.parent / ".fresh"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, fresh)
        put_in_place(fresh, target, replace=True)
        shutil.rmtree(fresh, ignore_errors=True)  # what was there
        await self.until(lambda: self._live() not in ("", before))

    def _live(self) -> str:
        try:
            return self.service.live(M)[1].digest
        except Exception:  # not there yet, for whatever reason
            return ""

    async def filled(self) -> Row:
        row = await self.bases.create("papers", M)
        await self.store.put_documents(row.kb, DOCUMENTS)
        assert row.live is not None
        rebuild = Rebuild(self.store, self.service, self.cutter)
        await rebuild.fill(row.live, self.service.live(M)[1], lambda done, total: None, _always)
        return row

    async def together(self, text: str) -> bool:
        """Whether the passage found is the text itself, with the cosine that only a matching pair has."""
        found = await self.bases.retrieve(RetrieveRequest(kb="papers", query=text, limit=1, hybrid=False))
        (hit,) = found.hits
        return hit.chunk.text == text and hit.cosine is not None and hit.cosine > SAME

    async def apart(self, text: str) -> bool:
        """The same, of somebody who reads the model and the index one after the other."""
        embedding = await self.service.embed(EmbedRequest(texts=[text], model=M, normalize=True))
        row = await self.store.row("/papers")
        assert row.live is not None
        (hit,) = await self.store.search(row.live, np.frombuffer(embedding.data, dtype="<f4"), None, 1)
        return hit.chunk.text == text and hit.cosine is not None and hit.cosine > SAME


async def _always() -> bool:
    return True


async def running(tmp_path: Path, check: Callable[[Knowing], Awaitable[None]]) -> None:
    """Runs a gateway with one host until `check` has ended, and fails as it does."""
    settings = Settings(
        models_dir=str(tmp_path / "models"),
        state_dir=str(tmp_path / "state"),
        port=0,
        host="127.0.0.1",
        device="cpu",
        settle_seconds=0.05,
        settle_writer_seconds=0.05,
        settle_in_place_seconds=0.05,
        scan_interval=0.2,
        log_level="error",
    )
    Path(settings.models_dir).mkdir()

    async def on_ready(gateway: Gateway, url: str) -> None:
        try:
            await check(Knowing(gateway))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # as whoever runs a gateway ends it

    async with asyncio.timeout(2 * DEADLINE):
        await life.run(settings, on_ready=on_ready)


async def test_over_twenty_swaps_no_query_of_a_thousand_meets_an_index_of_another_generation(
    tmp_path: Path, many: list[str]
) -> None:
    outcomes: Counter[bool] = Counter()
    generations: set[str] = set()

    async def check(knowing: Knowing) -> None:
        await knowing.drop(many[0])
        await knowing.filled()
        following = asyncio.create_task(knowing.follow.follow())
        swapped = asyncio.Event()

        async def ask(number: int) -> None:
            while not swapped.is_set() or outcomes.total() < QUERIES:
                number += 1
                outcomes[await knowing.together(LINES[number % len(LINES)])] += 1

        asking = [asyncio.create_task(ask(number)) for number in range(AT_ONCE)]
        for source in many[1:]:
            switches = knowing.heard["reindex_finished"]
            await knowing.drop(source)
            await knowing.until(lambda seen=switches: knowing.heard["reindex_finished"] > seen)  # type: ignore[misc]
            row = await knowing.store.row("/papers")
            generations.add(row.live.generation if row.live else "")
        swapped.set()
        await asyncio.gather(*asking)
        following.cancel()

    await running(tmp_path, check)
    assert outcomes.total() >= QUERIES
    assert outcomes[False] == 0
    assert len(generations) == SWAPS


async def test_whoever_reads_model_and_index_apart_meets_the_wrong_one(tmp_path: Path, many: list[str]) -> None:
    found: list[tuple[bool, bool]] = []

    async def check(knowing: Knowing) -> None:
        await knowing.drop(many[0])
        await knowing.filled()
        found.append((await knowing.together(LINES[0]), await knowing.apart(LINES[0])))
        await knowing.drop(many[1])
        found.append((await knowing.together(LINES[0]), await knowing.apart(LINES[0])))
        await knowing.follow.look()
        found.append((await knowing.together(LINES[0]), await knowing.apart(LINES[0])))

    await running(tmp_path, check)
    assert found == [(True, True), (True, False), (True, True)]
