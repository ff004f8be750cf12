"""All that knowledge bases are made of, put together: one for each gateway. It costs nothing until one is used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway import events
from gateway.ask.bases import KnowledgeBases
from gateway.ask.cutting import DocumentCutter
from gateway.ask.first_use import FirstUse
from gateway.ask.follow import Follow
from gateway.ask.holds import Holds
from gateway.ask.indexing import Indexer
from gateway.ask.ingest import Ingestion
from gateway.ask.parser import Parser
from gateway.service import Service


class Knowledge:
    """`spawn` starts a task that a task group owns."""

    def __init__(
        self,
        service: Service,
        opened: FirstUse,
        holds: Holds,
        tell: events.Events,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self.most_bytes = service.settings.max_document_bytes
        self._opened = opened
        self._service = service
        self._parser = Parser(most_bytes=self.most_bytes)
        self.cutter = DocumentCutter(self._parser)
        self.follower = Follow(opened, service, holds, self.cutter, tell)
        self.bases = KnowledgeBases(service, opened, holds, self.cutter.label, self.follower)
        self.ingestion = Ingestion(opened, self._parser, Indexer(service, self.cutter), tell, spawn)

    async def resume(self) -> None:
        """Once the models are known: makes up what the last process left undone."""
        await self._service.catalog.looked.wait()
        await self.ingestion.resume()

    async def close(self) -> None:
        await self._parser.close()
        await self._opened.close()
