"""All that knowledge bases are made of, put together: one for each gateway. It costs nothing until one is used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gateway import events
from gateway.ask.bases import KnowledgeBases
from gateway.ask.cutting import DocumentCutter
from gateway.ask.first_use import FirstUse
from gateway.ask.follow import Follow
from gateway.ask.holds import Holds
from gateway.ask.indexing import Indexer
from gateway.ask.ingest import Ingestion
from gateway.ask.parser import Parser
from gateway.ask.watched import Watched
from gateway.errors import GatewayError
from gateway.service import Service
from gateway.tenants.caller import Caller
from gateway.volume.mounts import is_network

PERIOD: Final = 2.0  # seconds between looks at the directory of documents
NETWORK_SECONDS: Final = 2.0  # that a file is quiet at least, where other machines write
LEAST_RETRY: Final = 1.0  # seconds until a store that cannot be read at the start is tried again
MOST_RETRY: Final = 60.0


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
        self._tell = tell
        self._service = service
        self._parser = Parser(most_bytes=self.most_bytes)
        self.cutter = DocumentCutter(self._parser)
        self.follower = Follow(opened, service, holds, self.cutter, tell)
        self.bases = KnowledgeBases(service, opened, holds, self.cutter.label, self.follower)
        self.ingestion = Ingestion(opened, self._parser, Indexer(service, self.cutter, tell), tell, spawn)

    def memory_bytes(self) -> int:
        """Of indexes that are held in this process."""
        return self._opened.memory_bytes

    def watched(self) -> Watched | None:
        """What follows the directory of documents, if there is one."""
        settings = self._service.settings
        if not settings.documents_dir:
            return None
        network = is_network(settings.documents_dir)
        return Watched(
            settings.documents_dir,
            self.bases.on_behalf_of(self._service.on_behalf_of(Caller(tenant=settings.documents_tenant))),
            self.ingestion,
            self._tell,
            most_bytes=self.most_bytes,
            period=settings.scan_interval or PERIOD,
            settle=max(settings.settle_seconds, NETWORK_SECONDS if network else 0.0),
        )

    async def follow(self) -> None:
        """Once the models are known: makes up what the last process left undone, and then follows the directory of
        documents."""
        await self._service.catalog.looked.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resume())
            if (watched := self.watched()) is not None:
                group.create_task(watched.follow())

    async def _resume(self) -> None:
        """However long it takes: models are served without the store. What is in its way is told once."""
        wait, complaint = LEAST_RETRY, ""
        while True:
            try:
                return await self.ingestion.resume()
            except GatewayError as error:
                if error.message != complaint:
                    self._tell.emit(events.Notice(code="knowledge_not_resumed", message=error.message))
                complaint = error.message
            await asyncio.sleep(wait)
            wait = min(MOST_RETRY, 2 * wait)

    async def close(self) -> None:
        await self.ingestion.close()
        await self._parser.close()
        await self._opened.close()
