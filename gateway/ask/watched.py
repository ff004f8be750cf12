"""Follows the directory of documents: what is dropped there is put into its knowledge base, what changes replaces, and
what has gone is deleted. Every look reads the whole of it; a root that is not there takes nothing away.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from gateway import events
from gateway.ask.bases import KnowledgeBases
from gateway.ask.drops import Dropped, Settling, Where, fingerprint, look
from gateway.ask.ingest import Ingestion
from gateway.ask.intake import File
from gateway.ask.parser import too_large
from gateway.ask.passage import check_name, document_id
from gateway.errors import DocumentNotFound, GatewayError, InvalidBody, KnowledgeBaseNotFound
from gateway.lane import Lane

SUFFIXES: Final = (".txt", ".text", ".md", ".markdown", ".rst", ".html", ".htm", ".xhtml", ".pdf")
SOURCE: Final = "dropped:"  # before the path, as the source of a document that was taken from here
BITE_BYTES: Final = 16 * 1024**2
BITE_FILES: Final = 64


class Watched:
    """`bases` are those of the tenant whose documents lie there. `period` and `settle` in seconds."""

    def __init__(
        self,
        root: str,
        bases: KnowledgeBases,
        ingestion: Ingestion,
        tell: events.Events,
        *,
        most_bytes: int,
        period: float,
        settle: float,
    ) -> None:
        self._root = root
        self._bases = bases
        self._ingestion = ingestion
        self._events = tell
        self._most_bytes = most_bytes
        self._period = period
        self._settling = Settling(settle)
        self._lane = Lane("documents")
        self._known = False
        self._complaint = ""

    async def follow(self) -> None:
        """For as long as the gateway runs."""
        try:
            while True:
                await self.look(time.monotonic())
                await asyncio.sleep(self._period)
        finally:
            self._lane.close(wait=False)

    async def look(self, now: float) -> None:
        """Once."""
        try:
            found = await self._lane.run(look, self._root, SUFFIXES)
        except OSError as error:
            self._complain(f"{self._root}: {error.strerror}: no document is added or deleted until it can be read")
            return
        try:
            if not self._known:
                await self._remember(now)
                self._known = True
            ready, gone = self._settling.observe(found, now)
            await self._put(ready)
            await self._delete(gone)
            self._complaint = ""
        except GatewayError as error:  # of all of them: no model, no store. Tried again at the next look
            self._complain(error.message)

    async def _remember(self, now: float) -> None:
        """What was taken from here before: its file may have gone meanwhile."""
        for row in await self._bases.list():
            for head in await (await self._bases.store()).list_documents(row.kb):
                if head.source == _source((row.name, head.name)):
                    self._settling.know((row.name, head.name), now)

    async def _put(self, ready: list[Dropped]) -> None:
        for kb in sorted({each.kb for each in ready}):
            files = [each for each in ready if each.kb == kb]
            try:
                check_name(kb)
            except InvalidBody as error:
                for each in files:
                    self._fail(each, error)
                continue
            bite: list[tuple[Dropped, File]] = []
            for each in files:
                if (file := await self._read(each)) is not None:
                    bite.append((each, file))
                if len(bite) >= BITE_FILES or sum(len(file.content) for _, file in bite) >= BITE_BYTES:
                    await self._add(kb, bite)
                    bite = []
            if bite:
                await self._add(kb, bite)

    async def _read(self, dropped: Dropped) -> File | None:
        """None for what changes again, or can never be put in, which is told."""
        try:
            if dropped.fingerprint[2] > self._most_bytes:
                self._fail(dropped, too_large(self._most_bytes))
                return None
            content = await self._lane.run(_content, dropped)
        except OSError as error:
            self._fail(dropped, InvalidBody(f"it cannot be read: {error.strerror}"))
            return None
        if content is None:
            return None
        return File(name=dropped.name, content=content, source=_source(dropped.where))

    async def _add(self, kb: str, bite: list[tuple[Dropped, File]]) -> None:
        try:
            taken = await self._ingestion.add(self._bases, kb, [file for _, file in bite])
        except InvalidBody as error:  # a name that cannot be shown
            if len(bite) == 1:
                self._fail(bite[0][0], error)
                return
            for one in bite:
                await self._add(kb, [one])
            return
        for (dropped, _), came in zip(bite, taken, strict=True):
            if came.error is not None:
                self._fail(dropped, came.error)
            else:
                self._settling.done(dropped)

    async def _delete(self, gone: list[Where]) -> None:
        for kb, name in gone:
            with suppress(DocumentNotFound, KnowledgeBaseNotFound, InvalidBody):  # the last was never put in
                await self._ingestion.delete(self._bases, kb, document_id(name))
            self._settling.forget((kb, name))

    def _fail(self, dropped: Dropped, error: GatewayError) -> None:
        """Told once for each state of the file."""
        self._settling.done(dropped)
        self._events.emit(
            events.DocumentFailed(
                kb=dropped.kb,
                owner=self._bases.owner,
                document=ascii(dropped.name)[1:-1],
                code=error.code,
                message=error.message,
            )
        )

    def _complain(self, message: str) -> None:
        if message != self._complaint:
            self._events.emit(events.Notice(code="documents_not_followed", message=message))
        self._complaint = message


def _source(where: Where) -> str:
    return f"{SOURCE}{where[0]}/{where[1]}"


def _content(dropped: Dropped) -> bytes | None:
    """Of exactly this state of the file."""
    with open(dropped.path, "rb") as stream:
        content = stream.read()
    return content if fingerprint(dropped.path) == dropped.fingerprint else None
