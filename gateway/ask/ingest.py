"""What is put into knowledge bases and taken out: documents are read, stored, and then indexed in the background.

A document that was acknowledged is on the disk, and is indexed sooner or later, also after a crash: what an index lacks
is the difference between it and the documents, and at every start that difference is made up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final

import msgspec

from gateway import events
from gateway.ask.backlog import Progress, Work
from gateway.ask.bases import KnowledgeBases
from gateway.ask.first_use import FirstUse
from gateway.ask.indexing import Failures, Indexer
from gateway.ask.intake import File, Status, Taken, check_document_name
from gateway.ask.parser import Parser
from gateway.ask.passage import Document, Index, Page, Row, document_id
from gateway.ask.store import Store
from gateway.errors import (
    DocumentNotFound,
    DocumentTooLarge,
    DocumentUnreadable,
    GatewayError,
    IndexGone,
    KnowledgeBaseNotFound,
    ShuttingDown,
)

TAKE: Final = 256  # documents that are indexed in one go
LEAST_RETRY: Final = 1.0  # seconds until an index that could not be written is tried again
MOST_RETRY: Final = 60.0
CLOSE_SECONDS: Final = 5.0  # that writes are waited for at the end
REMEMBERED: Final = 1000  # failures of a base that are told


class Round(msgspec.Struct):
    """What one bite of the pending documents came to."""

    documents: list[Document]
    missing: list[str]  # that are not stored any more
    failures: Failures
    chunks: int = 0

    def count(self, documents: Sequence[Document], chunks: int) -> None:
        self.chunks += chunks


class Ingestion:
    """Verbs are given the knowledge bases of whoever asks. `spawn` starts a task that a task group owns."""

    def __init__(
        self,
        opened: FirstUse,
        parser: Parser,
        indexer: Indexer,
        tell: events.Events,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._opened = opened
        self._parser = parser
        self._indexer = indexer
        self._events = tell
        self._spawn = spawn
        self._work: dict[str, Work] = {}
        self._resumed: set[str] = set()  # bases
        self._writes: set[asyncio.Task[None]] = set()
        self._closed = False

    async def add(
        self, bases: KnowledgeBases, name: str, files: Sequence[File], embedding_model: str | None = None
    ) -> list[Taken]:
        """Reads and stores the files, and has them indexed. What it says was added is on the disk. A base that is not
        there is made, unless no file can be read. Raises what `KnowledgeBases.ensure` does."""
        for file in files:
            check_document_name(file.name)
        await self._opened()  # without the extra nothing can be read, and that is no document's fault
        read = await asyncio.gather(*(self._read(file) for file in files))
        good = [document for document in read if isinstance(document, Document)]
        if not good:
            if files:
                return [_failed(file, error) for file, error in zip(files, read, strict=True)]  # type: ignore[arg-type]
            await bases.ensure(name, embedding_model)
            return []
        row = await bases.ensure(name, embedding_model)
        store = await bases.store()
        known = {each.id: await _head(store, row.kb, each.id) for each in good}
        latest = {document.id: document for document in good}  # of two with one name the last counts
        failed = self._work[row.kb].failed if row.kb in self._work else {}
        fresh = [each for each in latest.values() if known[each.id] != each.digest or each.id in failed]
        if fresh:
            await self._whole(self._put(store, row.kb, fresh))
        changed = {each.id for each in fresh}
        return [_taken(file, each, known, changed) for file, each in zip(files, read, strict=True)]

    async def delete(self, bases: KnowledgeBases, name: str, document: str) -> None:
        """Raises DocumentNotFound."""
        row = await bases.get(name)
        store = await bases.store()
        await self._whole(self._delete(store, row, document))

    def progress(self, row: Row) -> Progress:
        work = self._work.get(row.kb)
        return Progress() if work is None else work.progress()

    async def settled(self, kb: str, documents: Collection[str], seconds: float) -> bool:
        """Waits until these are indexed or have failed, and says whether they have within so many seconds."""
        work = self._work.get(kb)
        return work is None or await work.settled(frozenset(documents), seconds)

    def forget(self, kb: str) -> None:
        """The base has gone."""
        work = self._work.pop(kb, None)
        if work is not None and work.task is not None:
            work.task.cancel()

    async def close(self) -> None:
        """What is being written is finished, if it can be; at the next start the indexes follow."""
        self._closed = True
        if self._writes:
            await asyncio.wait(self._writes, timeout=CLOSE_SECONDS)

    async def resume(self) -> None:
        """Makes up what every index lacks: to be run at the start, and again for as long as it raises what the store
        does. A base that cannot be read keeps no other waiting."""
        if not self._opened.worth_opening:
            return
        store = await self._opened()
        failed: GatewayError | None = None
        for row in await store.rows():
            if row.kb in self._resumed:
                continue
            try:
                await self._make_up(store, row)
            except (KnowledgeBaseNotFound, IndexGone):
                continue
            except GatewayError as error:
                failed = error
            else:
                self._resumed.add(row.kb)
        if failed is not None:
            raise failed

    async def _make_up(self, store: Store, row: Row) -> None:
        if row.live is None:
            return
        indexed = await store.indexed(row.live)  # first: what comes meanwhile is then missing at most, and never gone
        heads = {head.id: head for head in await store.list_documents(row.kb)}
        if gone := sorted(indexed.keys() - heads.keys()):
            await store.remove(row.live, gone)
        missing = [id for id, head in heads.items() if indexed.get(id) != head.digest]
        if missing:
            self._wake(row.kb, dict.fromkeys(missing))

    async def _whole(self, write: Coroutine[Any, Any, None]) -> None:
        """To its end, also when whoever asked for it has gone: half of it would be made up at the next start alone."""
        task = asyncio.create_task(write)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        await asyncio.shield(task)

    async def _put(self, store: Store, kb: str, documents: Sequence[Document]) -> None:
        try:
            await store.put_documents(kb, documents)
        except GatewayError:  # they may be stored all the same
            self._wake(kb, dict.fromkeys(each.id for each in documents))
            raise
        self._wake(kb, {each.id: each for each in documents})

    async def _delete(self, store: Store, row: Row, document: str) -> None:
        try:
            await store.delete_document(row.kb, document)
            if (work := self._work.get(row.kb)) is not None:
                work.delete(document)
            for index in await _written(store, row):
                await store.remove(index, [document])
        except (DocumentNotFound, KnowledgeBaseNotFound):
            raise
        except GatewayError:  # it may be deleted all the same, and then the indexes have to follow
            self._wake(row.kb, {document: None})
            raise

    async def _read(self, file: File) -> Document | GatewayError:
        try:
            read = await self._parser.read(file.name, file.content, file.media)
        except (DocumentUnreadable, DocumentTooLarge) as error:
            return error
        return Document(
            id=document_id(file.name),
            name=file.name,
            source=file.source or file.name,
            text=read.text,
            pages=tuple(Page(*page) for page in read.pages),
            metadata=file.metadata,
            digest=file.digest,
            added=time.time(),
        )

    def _wake(self, kb: str, documents: dict[str, Document | None]) -> None:
        work = self._work.setdefault(kb, Work())
        work.add(documents)
        if not self._closed and (work.task is None or work.task.done()):
            work.task = self._spawn(self._run(kb, work))

    async def _run(self, kb: str, work: Work) -> None:
        """Until nothing is left. What keeps it from going on is told once, and tried again."""
        wait = LEAST_RETRY
        while work.pending:
            try:
                await self._round(kb, work)
                work.error, wait = None, LEAST_RETRY
            except (KnowledgeBaseNotFound, ShuttingDown):
                work.pending.clear()
                if self._work.get(kb) is work:
                    del self._work[kb]
            except IndexGone:  # the row names another by then
                await asyncio.sleep(LEAST_RETRY)
            except GatewayError as error:
                self._stall(kb, work, error)
                await asyncio.sleep(wait)
                wait = min(MOST_RETRY, 2 * wait)
            finally:
                async with work.moved:
                    work.moved.notify_all()

    async def _round(self, kb: str, work: Work) -> None:
        """A bite of what is pending, into every index that has to have it."""
        store = await self._opened()
        row = await store.row(kb)
        taken = work.take(TAKE)
        try:
            found = {id: known or await _get(store, kb, id) for id, known in taken.items()}
            documents = [each for each in found.values() if each is not None]
            done = Round(documents, [id for id, each in found.items() if each is None], {})
            began = time.monotonic()
            await self._index(store, row, work, done)
        except BaseException:
            work.give_back(taken)
            raise
        named = {each.id: each.name for each in documents}
        for id, error in done.failures.items():
            work.fail(id, named[id], error, REMEMBERED)
        work.rest()
        self._tell(row, work, done, time.monotonic() - began)

    async def _index(self, store: Store, row: Row, work: Work, done: Round) -> None:
        indexes = await _written(store, row)
        if not indexes:
            raise IndexGone(f"the knowledge base {row.name} has no index yet", knowledge_base=row.name)
        for index in indexes:
            told = done.count if index == row.live else _nobody
            done.failures |= await self._indexer.put(store, index, done.documents, told)
            if gone := sorted(work.gone.union(done.missing)):
                await store.remove(index, gone)
            if not work.pending:
                await store.finish(index)

    def _tell(self, row: Row, work: Work, done: Round, seconds: float) -> None:
        named = {each.id: each.name for each in done.documents}
        for id, error in done.failures.items():
            self._events.emit(
                events.DocumentFailed(
                    kb=row.name, owner=row.owner, document=named[id], code=error.code, message=error.message
                )
            )
        self._events.emit(
            events.DocumentsIndexed(
                kb=row.name,
                owner=row.owner,
                documents=len(done.documents) - len(done.failures),
                chunks=done.chunks,
                pending=work.left,
                seconds=seconds,
            )
        )

    def _stall(self, kb: str, work: Work, error: GatewayError) -> None:
        if work.error is None or work.error.code != error.code:
            owner, _, name = kb.rpartition("/")
            self._events.emit(events.IndexingStalled(kb=name, owner=owner, code=error.code, message=error.message))
        work.error = error


def _nobody(documents: Sequence[Document], chunks: int) -> None:
    """Is told."""


def _taken(file: File, read: Document | GatewayError, known: dict[str, str | None], changed: set[str]) -> Taken:
    if isinstance(read, GatewayError):
        return _failed(file, read)
    status: Status = "unchanged" if read.id not in changed else "added" if known[read.id] is None else "replaced"
    return Taken(name=read.name, id=read.id, status=status, characters=len(read.text), pages=len(read.pages))


def _failed(file: File, error: GatewayError) -> Taken:
    return Taken(name=file.name, id=document_id(file.name), status="failed", error=error)


async def _written(store: Store, row: Row) -> list[Index]:
    """Those that have to have what is put in: the live one, and any that is being built beside it."""
    previous = {index.id for index in row.previous}
    return [index for index in await store.indexes(row.kb) if index.id not in previous]


async def _head(store: Store, kb: str, document: str) -> str | None:
    """The digest of a document that is there."""
    found = await _get(store, kb, document)
    return None if found is None else found.digest


async def _get(store: Store, kb: str, document: str) -> Document | None:
    try:
        return await store.get_document(kb, document)
    except DocumentNotFound:
        return None
