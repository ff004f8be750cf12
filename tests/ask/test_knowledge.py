"""What a gateway does with its knowledge bases once it runs, whatever becomes of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import events
from gateway.ask.first_use import FirstUse
from gateway.ask.knowledge import Knowledge
from gateway.ask.passage import Index, document_id
from gateway.errors import KnowledgeDirUnsuitable, KnowledgeStoreFailed
from tests.ask.asked import Asked
from tests.ask.memory_store import MemoryStore
from tests.ask.stores import document
from tests.catalog.world import M

PATIENCE = 300.0  # seconds until a test gives up


class Broken(MemoryStore):
    """Cannot be opened so many times, and then cannot read the index of `unreadable`."""

    def __init__(self) -> None:
        super().__init__()
        self.unopened = 0
        self.unreadable = ""

    async def open(self) -> None:
        if self.unopened:
            self.unopened -= 1
            raise KnowledgeDirUnsuitable("the bucket cannot be reached")

    async def indexed(self, index: Index) -> dict[str, str]:
        if index.kb == self.unreadable:
            raise KnowledgeStoreFailed("half of it is gone")
        return await super().indexed(index)


class Opened:
    """The knowledge bases of a gateway in its second life: two have a document that is not indexed."""

    def __init__(self, asked: Asked, store: Broken) -> None:
        self.asked = asked
        self.store = store
        self.tasks: list[asyncio.Task[None]] = []
        opened = FirstUse(lambda: store, lambda: True)
        self.knowledge = Knowledge(asked.service, opened, asked.held, asked.world.events, self.spawn)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    @property
    def told(self) -> list[str]:
        return [each.message for each in self.asked.heard(events.Notice) if each.code == "knowledge_not_resumed"]

    async def indexed(self, name: str, document: str = "paper") -> bool:
        live = (await self.asked.row(name)).live
        assert live is not None
        return document_id(document) in await MemoryStore.indexed(self.store, live)

    async def until_indexed(self, name: str, document: str = "paper") -> None:
        async with asyncio.timeout(PATIENCE):
            while not await self.indexed(name, document):
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.knowledge.close()


@pytest.fixture
async def opened(tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    monkeypatch.setattr("gateway.ask.knowledge.LEAST_RETRY", 0.01)
    asked = Asked(tmp_path, store=Broken())
    await asked.world.swap(made[0])
    for name in ("broken", "papers"):
        await asked.bases.ensure(name, M)
        await asked.store.put_documents(asked.bases.key(name), [document("paper", "the beam is bent by a dipole")])
    assert isinstance(asked.store, Broken)
    opened = Opened(asked, asked.store)
    yield opened
    await opened.close()


async def test_a_store_that_cannot_be_opened_at_the_start_is_tried_until_it_can(opened: Opened) -> None:
    opened.store.unopened = 3
    following = opened.spawn(opened.knowledge.follow())
    await opened.until_indexed("papers")
    assert not opened.store.unopened
    assert opened.told == ["the bucket cannot be reached"]
    await asyncio.wait_for(following, PATIENCE)


async def test_a_base_that_cannot_be_read_at_the_start_keeps_no_other_waiting(opened: Opened) -> None:
    opened.store.unreadable = opened.asked.bases.key("broken")
    following = opened.spawn(opened.knowledge.follow())
    await opened.until_indexed("papers")
    assert not await opened.indexed("broken")
    assert not following.done()
    assert opened.told == ["half of it is gone"]
    opened.store.unreadable = ""
    await opened.until_indexed("broken")


async def test_documents_are_followed_while_the_store_cannot_be_read(opened: Opened, tmp_path: Path) -> None:
    opened.store.unreadable = opened.asked.bases.key("broken")
    folder = tmp_path / "documents"
    (folder / "papers").mkdir(parents=True)
    (folder / "papers" / "other.txt").write_text("Vacuum is measured in millibar.")
    service = opened.asked.service
    service.settings = replace(service.settings, documents_dir=str(folder), scan_interval=0.01, settle_seconds=0.0)
    opened.spawn(opened.knowledge.follow())
    await opened.until_indexed("papers", "other.txt")
    assert opened.told == ["half of it is gone"]
