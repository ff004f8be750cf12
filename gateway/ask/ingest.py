"""What is put into knowledge bases and taken out: documents are read, stored, and then indexed in the background.

A document that was acknowledged is on the disk, and is indexed sooner or later, also after a crash: what an index lacks
is the difference between it and the documents, and at every start that difference is made up.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from gateway import events
from gateway.ask.bases import KnowledgeBases
from gateway.ask.first_use import FirstUse
from gateway.ask.indexing import Failures, Indexer
from gateway.ask.parser import Parser
from gateway.ask.passage import Document, Index, Page, Row, Value, document_id
from gateway.ask.store import Store
from gateway.errors import (
    DocumentNotFound,
    DocumentTooLarge,
    DocumentUnreadable,
    GatewayError,
    IndexGone,
    InvalidBody,
    KnowledgeBaseNotFound,
    ShuttingDown,
)

TAKE: Final = 256  # documents that are indexed in one go
LONGEST_NAME: Final = 1024  # bytes of a document's name
LEAST_RETRY: Final = 1.0  # seconds until an index that could not be written is tried again
MOST_RETRY: Final = 60.0
REMEMBERED: Final = 1000  # failures of a base that are told
READER: Final = "1"  # goes up when the same bytes are read to another text: then equal bytes are new again

Status = Literal["added", "replaced", "unchanged", "failed"]


class File(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody puts in. `media` is what they say it is, perhaps nothing; `source` is for people, the name if
    empty."""

    name: str
    content: bytes
    media: str = ""
    source: str = ""
    metadata: dict[str, Value] = {}

    @property
    def digest(self) -> str:
        about = msgspec.json.encode([READER, self.media, self.source, sorted(self.metadata.items())])
        return hashlib.sha256(about + b"\0" + self.content).hexdigest()


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one file. `error` says why it failed."""

    name: str
    id: str
    status: Status
    characters: int = 0
    pages: int = 0
    error: GatewayError | None = None


@dataclass(slots=True)
class Work:
    """What is still to be indexed of one base, by the document's id; documents at hand spare a look into the store."""

    pending: dict[str, Document | None] = field(default_factory=dict)
    underway: dict[str, str] = field(default_factory=dict)  # id -> digest
    gone: set[str] = field(default_factory=set)  # deleted while they were indexed
    failed: dict[str, tuple[str, GatewayError]] = field(default_factory=dict)  # id -> name and why
    error: GatewayError | None = None  # why nothing can be indexed at the moment
    task: asyncio.Task[None] | None = None
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def left(self) -> int:
        return len(self.pending.keys() | self.underway.keys())


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """`pending` documents are stored and not indexed yet; `error` is what keeps them."""

    pending: int = 0
    failed: tuple[tuple[str, str, GatewayError], ...] = ()  # id, name, why
    error: GatewayError | None = None


class Ingestion:
    """Verbs are given the knowledge bases of whoever asks. `spawn` starts a task that a task group
    owns."""

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

    async def add(
        self, bases: KnowledgeBases, name: str, files: Sequence[File], embedding_model: str | None = None
    ) -> list[Taken]:
        """Reads and stores the files, and has them indexed. What it says was added is on the disk. A base that is not
        there is made, unless no file can be read. Raises what `KnowledgeBases.ensure` does."""
        for file in files:
            check_document_name(file.name)
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
        fresh = [each for each in latest.values() if (there := known[each.id]) is None or there != each.digest]
        if fresh:
            await store.put_documents(row.kb, fresh)
            self._wake(row.kb, {each.id: each for each in fresh})
        changed = {each.id for each in fresh}
        return [_taken(file, each, known, changed) for file, each in zip(files, read, strict=True)]

    async def delete(self, bases: KnowledgeBases, name: str, document: str) -> None:
        """Raises DocumentNotFound."""
        row = await bases.get(name)
        store = await bases.store()
        await store.delete_document(row.kb, document)
        work = self._work.get(row.kb)
        if work is not None:
            work.pending.pop(document, None)
            work.failed.pop(document, None)
            if document in work.underway:
                work.gone.add(document)
        for index in await _written(store, row):
            await store.remove(index, [document])

    def progress(self, row: Row) -> Progress:
        work = self._work.get(row.kb)
        if work is None:
            return Progress()
        failed = tuple((id, name, error) for id, (name, error) in work.failed.items())
        return Progress(pending=work.left, failed=failed, error=work.error)

    async def settled(self, kb: str, documents: Collection[str], seconds: float) -> bool:
        """Waits until these are indexed or have failed, and says whether they have within so many seconds."""
        work = self._work.get(kb)
        if work is None:
            return True
        wanted = set(documents)
        try:
            async with asyncio.timeout(seconds), work.moved:
                await work.moved.wait_for(lambda: not wanted & (work.pending.keys() | work.underway.keys()))
        except TimeoutError:
            return False
        return True

    def forget(self, kb: str) -> None:
        """The base has gone."""
        work = self._work.pop(kb, None)
        if work is not None and work.task is not None:
            work.task.cancel()

    async def resume(self) -> None:
        """Makes up what every index lacks: to be run once, at the start."""
        if not self._opened.worth_opening:
            return
        store = await self._opened()
        for row in await store.rows():
            try:
                await self._make_up(store, row)
            except (KnowledgeBaseNotFound, IndexGone):
                continue

    async def _make_up(self, store: Store, row: Row) -> None:
        if row.live is None:
            return
        heads = {head.id: head for head in await store.list_documents(row.kb)}
        indexed = await store.indexed(row.live)
        if gone := sorted(indexed.keys() - heads.keys()):
            await store.remove(row.live, gone)
        missing = [id for id, head in heads.items() if indexed.get(id) != head.digest]
        if missing:
            self._wake(row.kb, dict.fromkeys(missing))

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
        work.pending.update(documents)
        for document in documents:
            work.failed.pop(document, None)
            work.gone.discard(document)
        if work.task is None or work.task.done():
            work.task = self._spawn(self._run(kb, work))

    async def _run(self, kb: str, work: Work) -> None:
        """Until nothing is left. What keeps it from going on is told once, and tried again."""
        wait = LEAST_RETRY
        while work.pending:
            try:
                await self._round(kb, work)
                work.error, wait = None, LEAST_RETRY
            except (KnowledgeBaseNotFound, ShuttingDown):
                self._work.pop(kb, None)
                await _move(work, clear=True)
                return
            except IndexGone:
                await asyncio.sleep(LEAST_RETRY)  # the row names another by then
            except GatewayError as error:
                if work.error is None or work.error.code != error.code:
                    self._tell_stalled(kb, error)
                work.error = error
                await asyncio.sleep(wait)
                wait = min(MOST_RETRY, 2 * wait)

    async def _round(self, kb: str, work: Work) -> None:
        """A bite of what is pending, into every index that has to have it."""
        store = await self._opened()
        row = await store.row(kb)
        taken = dict(list(work.pending.items())[:TAKE])
        documents = [each for id, known in taken.items() if (each := known or await _get(store, kb, id)) is not None]
        for id in taken:
            del work.pending[id]
        work.underway = {each.id: each.digest for each in documents}
        began, failures = time.monotonic(), Failures()
        try:
            indexes = await _written(store, row)
            if not indexes:
                raise IndexGone(f"the knowledge base {row.name} has no index yet", knowledge_base=row.name)
            count = _Count()
            for index in indexes:
                failures |= await self._indexer.put(store, index, documents, count if index == row.live else _nobody)
                if gone := sorted(work.gone):
                    await store.remove(index, gone)
        except GatewayError:
            for each in documents:
                if each.id not in work.gone:
                    work.pending.setdefault(each.id, each)
            raise
        finally:
            work.underway, work.gone = {}, set()
            await _move(work)
        self._tell(row, work, documents, failures, count.chunks, time.monotonic() - began)

    def _tell(
        self, row: Row, work: Work, documents: Sequence[Document], failures: Failures, chunks: int, seconds: float
    ) -> None:
        named = {each.id: each.name for each in documents}
        for id, error in failures.items():
            work.failed[id] = (named[id], error)
            self._events.emit(
                events.DocumentFailed(
                    kb=row.name,
                    owner=row.owner,
                    document=named[id],
                    code=error.code,
                    message=error.message,
                )
            )
        while len(work.failed) > REMEMBERED:
            del work.failed[next(iter(work.failed))]
        self._events.emit(
            events.DocumentsIndexed(
                kb=row.name,
                owner=row.owner,
                documents=len(documents) - len(failures),
                chunks=chunks,
                pending=work.left,
                seconds=seconds,
            )
        )

    def _tell_stalled(self, kb: str, error: GatewayError) -> None:
        owner, _, name = kb.rpartition("/")
        self._events.emit(
            events.IndexingStalled(kb=name, owner=owner, code=error.code, message=error.message)
        )


class _Count:
    chunks = 0

    def __call__(self, documents: Sequence[Document], chunks: int) -> None:
        self.chunks += chunks


def _nobody(documents: Sequence[Document], chunks: int) -> None:
    """Is told."""


def check_document_name(name: str) -> None:
    """Raises InvalidBody: a name is shown in lists, logs and answers, and is never a path of ours."""
    if not name.strip() or not name.isprintable() or len(name.encode(errors="surrogatepass")) > LONGEST_NAME:
        raise InvalidBody(
            f"the name of a document is a line of printable characters, {LONGEST_NAME} bytes at most", field="name"
        )


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


async def _move(work: Work, *, clear: bool = False) -> None:
    """Whoever waits looks again."""
    if clear:
        work.pending.clear()
    async with work.moved:
        work.moved.notify_all()

