"""Putting documents in and taking them out: what was acknowledged is found, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from gateway import events
from gateway.ask.backlog import Work
from gateway.ask.intake import File
from gateway.ask.passage import Document, Index, document_id, key
from gateway.errors import (
    AskUnavailable,
    DocumentNotFound,
    DocumentUnreadable,
    GatewayError,
    InvalidBody,
    KnowledgeBaseNotFound,
    KnowledgeStoreFailed,
    Overloaded,
    TooManyTokens,
)
from tests.ask.memory_store import MemoryStore
from tests.ask.papers import pdf
from tests.ask.tiny import Desk, desk
from tests.running import DEADLINE

pytest.importorskip("semantic_text_splitter", reason="the extra `ask` is not installed")

LONG = " ".join(f"Sentence number {n} is about magnets." for n in range(400))


def file(name: str, text: str, **metadata: str | int) -> File:
    return File(name=name, content=text.encode(), metadata=dict(metadata))


@pytest_asyncio.fixture
async def papers(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(str(tmp_path)) as made:
        yield made


async def test_documents_are_stored_and_then_found(papers: Desk) -> None:
    taken = await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One."), file("b.txt", LONG, year=2024)])
    assert [each.status for each in taken] == ["added", "added"]
    await papers.settle()
    assert await papers.texts() == {"a.txt": "One.", "b.txt": LONG}
    live = await papers.live()
    [hit] = await papers.store.search(live, None, "sentence number 399", 1)
    assert (hit.name, hit.metadata) == ("b.txt", {"year": 2024})


async def test_what_is_acknowledged_is_in_the_store_before_it_is_indexed(papers: Desk) -> None:
    papers.service.gate.clear()
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.")])
    row = await papers.bases.get("papers")
    assert (await papers.store.get_document(row.kb, document_id("a.txt"))).text == "One."
    assert papers.ingestion.progress(row).pending == 1
    assert not await papers.ingestion.settled(row.kb, [document_id("a.txt")], 0)
    papers.service.gate.set()
    await papers.settle()
    assert papers.ingestion.progress(row).pending == 0


async def test_equal_documents_are_left_alone(papers: Desk) -> None:
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", LONG)])
    await papers.settle()
    embedded = len(papers.service.seen)
    [again] = await papers.ingestion.add(papers.bases, "papers", [file("a.txt", LONG)])
    await papers.settle()
    assert again.status == "unchanged"
    assert len(papers.service.seen) == embedded


async def test_a_document_of_the_same_name_replaces_the_one_before(papers: Desk) -> None:
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", LONG)])
    await papers.settle()
    [again] = await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "Short now.")])
    assert again.status == "replaced"
    await papers.settle()
    assert await papers.texts() == {"a.txt": "Short now."}
    assert await papers.store.count(await papers.live()) == 1


async def test_other_metadata_replace_too(papers: Desk) -> None:
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.", year=2023)])
    [again] = await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.", year=2024)])
    assert again.status == "replaced"
    await papers.settle()
    [hit] = await papers.store.search(await papers.live(), None, "one", 1)
    assert hit.metadata == {"year": 2024}


async def test_of_two_documents_with_one_name_the_last_counts(papers: Desk) -> None:
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "First."), file("a.txt", "Last.")])
    await papers.settle()
    assert await papers.texts() == {"a.txt": "Last."}


async def test_a_deleted_document_is_found_no_more(papers: Desk) -> None:
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One."), file("b.txt", "Two.")])
    await papers.settle()
    await papers.ingestion.delete(papers.bases, "papers", document_id("a.txt"))
    assert await papers.texts() == {"b.txt": "Two."}
    assert await papers.store.count(await papers.live()) == 1
    with pytest.raises(DocumentNotFound):
        await papers.ingestion.delete(papers.bases, "papers", document_id("a.txt"))


async def test_a_document_that_is_deleted_while_it_is_indexed_is_found_no_more(papers: Desk) -> None:
    papers.service.gate.clear()
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.")])
    await papers.service.begun.wait()
    await papers.ingestion.delete(papers.bases, "papers", document_id("a.txt"))
    papers.service.gate.set()
    row = await papers.bases.get("papers")
    assert await papers.ingestion.settled(row.kb, [document_id("a.txt")], DEADLINE)
    assert await papers.store.count(await papers.live()) == 0


async def test_a_document_that_is_replaced_while_it_is_indexed_is_the_new_one_in_the_end(papers: Desk) -> None:
    papers.service.gate.clear()
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "Old.")])
    await papers.service.begun.wait()
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "New.")])
    papers.service.gate.set()
    await papers.settle()
    assert await papers.texts() == {"a.txt": "New."}


async def test_one_document_that_cannot_be_read_keeps_no_other_out(papers: Desk) -> None:
    files = [file("a.txt", "One."), File(name="b.pdf", content=b"no PDF"), file("c.txt", "Three.")]
    taken = await papers.ingestion.add(papers.bases, "papers", files)
    assert [each.status for each in taken] == ["added", "failed", "added"]
    assert isinstance(taken[1].error, DocumentUnreadable)
    await papers.settle()
    assert await papers.texts() == {"a.txt": "One.", "c.txt": "Three."}


async def test_a_base_is_not_made_of_what_cannot_be_read(papers: Desk) -> None:
    [taken] = await papers.ingestion.add(papers.bases, "papers", [File(name="b.pdf", content=b"no PDF")])
    assert taken.status == "failed"
    with pytest.raises(KnowledgeBaseNotFound):
        await papers.bases.get("papers")


async def test_without_the_extra_it_is_no_documents_fault(tmp_path: Path) -> None:
    class Missing(MemoryStore):
        async def open(self) -> None:
            raise AskUnavailable("pip install")

    async with desk(str(tmp_path), Missing()) as papers:
        with pytest.raises(AskUnavailable):
            await papers.ingestion.add(papers.bases, "papers", [File(name="b.pdf", content=b"no PDF")])


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "x" * 1025, "\ud800"])
async def test_a_document_needs_a_name_that_can_be_shown(papers: Desk, name: str) -> None:
    with pytest.raises(InvalidBody):
        await papers.ingestion.add(papers.bases, "papers", [File(name=name, content=b"x")])


async def test_pages_of_a_pdf_are_those_of_its_chunks(papers: Desk) -> None:
    content = pdf([f"Page {n}: {'text about beams ' * 60}" for n in range(1, 6)])
    await papers.ingestion.add(papers.bases, "papers", [File(name="p.pdf", content=content)])
    await papers.settle()
    live = await papers.live()
    text = (await papers.store.get_document(live.kb, document_id("p.pdf"))).text
    chunks = await papers.store.chunks(live, document_id("p.pdf"))
    assert len(chunks) > 4
    for chunk in chunks:
        begins = chunk.start + len(chunk.text) - len(chunk.text.lstrip())
        assert chunk.page == text[: begins + len("Page n:")].count("Page ")


@pytest.mark.parametrize("refusal", [Overloaded("busy", retry_after=0.01), TooManyTokens("too many")])
async def test_a_busy_device_delays_documents_and_loses_none(papers: Desk, refusal: GatewayError) -> None:
    papers.service.refusals.append(refusal)
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", LONG)])
    await papers.settle()
    assert await papers.texts() == {"a.txt": LONG}


async def test_a_device_that_is_too_slow_for_many_texts_at_once_is_asked_for_few(papers: Desk) -> None:
    papers.service.most = 2
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", LONG)])
    await papers.settle()
    assert await papers.texts() == {"a.txt": LONG}
    assert max(len(texts) for _, texts in papers.service.seen) == 2


async def test_no_request_has_more_texts_than_one_may(tmp_path: Path) -> None:
    async with desk(str(tmp_path), max_inputs=3) as papers:
        await papers.ingestion.add(papers.bases, "papers", [file("a.txt", LONG)])
        await papers.settle()
        assert await papers.texts() == {"a.txt": LONG}


async def test_what_keeps_documents_from_being_indexed_is_told_and_tried_again(
    papers: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ask.ingest.LEAST_RETRY", 0.01)
    papers.service.refusals += [GatewayError("no such thing"), GatewayError("no such thing")]
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.")])
    await papers.settle()
    assert await papers.texts() == {"a.txt": "One."}
    assert [each.message for each in papers.told if isinstance(each, events.IndexingStalled)] == ["no such thing"]


async def test_progress_is_told_as_events(papers: Desk) -> None:
    await papers.ingestion.add(papers.of("physics"), "papers", [file("a.txt", "One."), file("b.txt", LONG)])
    assert await papers.ingestion.settled(key("physics", "papers"), [document_id("b.txt")], DEADLINE)
    told = [each for each in papers.told if isinstance(each, events.DocumentsIndexed)]
    assert [(each.kb, each.owner, each.documents, each.pending) for each in told] == [("papers", "physics", 2, 0)]
    assert told[0].chunks > 2


async def test_what_is_embedded_is_charged_to_the_owner_of_the_base(papers: Desk) -> None:
    for tenant in ("physics", "biology"):
        await papers.ingestion.add(
            papers.of(tenant), "papers", [file("a.txt", f"One of {tenant}."), file("b.txt", LONG)]
        )
        assert await papers.ingestion.settled(key(tenant, "papers"), [document_id("b.txt")], DEADLINE)
    told = [each for each in papers.told if isinstance(each, events.ChunksEmbedded)]
    assert {(each.kb, each.model) for each in told} == {("papers", "finetuned/tiny")}
    for tenant in ("physics", "biology"):
        embedded = [text for flow, texts in papers.service.seen if flow.endswith(tenant) for text in texts]
        charged = [each for each in told if each.owner == tenant]
        assert sum(each.texts for each in charged) == len(embedded) > 2
        assert sum(each.tokens for each in charged) == sum(len(text.split()) for text in embedded)


async def test_bases_of_two_tenants_with_one_name_are_two(papers: Desk) -> None:
    for tenant in ("a", "b"):
        await papers.ingestion.add(papers.of(tenant), "papers", [file("a.txt", f"Of {tenant}.")])
        assert await papers.ingestion.settled(key(tenant, "papers"), [document_id("a.txt")], DEADLINE)
    await papers.ingestion.delete(papers.of("a"), "papers", document_id("a.txt"))
    left = await papers.store.get_document(key("b", "papers"), document_id("a.txt"))
    assert left.text == "Of b."


async def test_documents_are_embedded_in_a_flow_of_their_own(papers: Desk) -> None:
    await papers.ingestion.add(papers.of("physics"), "papers", [file("a.txt", "One.")])
    assert await papers.ingestion.settled(key("physics", "papers"), [document_id("a.txt")], DEADLINE)
    assert "physics" not in {tenant for tenant, _ in papers.service.seen}


async def test_what_a_crash_left_undone_is_made_up_at_the_next_start(tmp_path: Path) -> None:
    store = MemoryStore()
    async with desk(str(tmp_path), store) as before:
        await before.ingestion.add(before.bases, "papers", [file("a.txt", "One."), file("gone.txt", "Gone.")])
        await before.settle()
        before.service.gate.clear()
        await before.ingestion.add(before.bases, "papers", [file("a.txt", "Other."), file("b.txt", "Two.")])
        await before.service.begun.wait()
        await store.delete_document((await before.live()).kb, document_id("gone.txt"))  # and no more than that
    async with desk(str(tmp_path), store) as after:
        await after.ingestion.resume()
        await after.settle()
        assert await after.texts() == {"a.txt": "Other.", "b.txt": "Two."}
        assert await store.count(await after.live()) == 2


async def test_an_index_that_is_being_built_gets_what_the_live_one_does(papers: Desk) -> None:
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.")])
    await papers.settle()
    live = await papers.live()
    building = await papers.store.create_index(live.kb, live.model, live.generation, live.dim, live.chunking)
    await papers.ingestion.add(papers.bases, "papers", [file("b.txt", "Two.")])
    await papers.settle()
    assert (await papers.store.indexed(building)).keys() == {document_id("b.txt")}
    await papers.ingestion.delete(papers.bases, "papers", document_id("b.txt"))
    assert await papers.store.indexed(building) == {}


async def test_a_base_that_is_dropped_while_it_is_filled_is_gone(papers: Desk) -> None:
    papers.service.gate.clear()
    await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.")])
    await papers.service.begun.wait()
    row = await papers.bases.get("papers")
    await papers.bases.delete("papers")
    papers.ingestion.forget(row.kb)
    papers.service.gate.set()
    assert await papers.bases.list() == []


class Held(MemoryStore):
    """Reading the document `held` waits for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.held = ""
        self.waiting, self.go = asyncio.Event(), asyncio.Event()

    async def get_document(self, kb: str, document: str) -> Document:
        found = await super().get_document(kb, document)
        if document == self.held:
            self.waiting.set()
            await self.go.wait()
        return found


@pytest_asyncio.fixture
async def resuming(tmp_path: Path) -> AsyncIterator[Desk]:
    """A second life, which reads `b.txt` to index it after `a.txt`, and is held there."""
    store = Held()
    async with desk(str(tmp_path), store) as before:
        await before.ingestion.add(before.bases, "papers", [file("z.txt", "Z.")])
        await before.settle()
        before.service.gate.clear()
        await before.ingestion.add(before.bases, "papers", [file("a.txt", "Old words."), file("b.txt", "Bee.")])
    store.held = document_id("b.txt")
    async with desk(str(tmp_path), store) as after:
        await after.ingestion.resume()
        async with asyncio.timeout(300):
            await store.waiting.wait()
        store.held = ""
        yield after


async def test_a_document_that_is_replaced_while_a_start_makes_up_for_it_is_the_new_one(resuming: Desk) -> None:
    [taken] = await resuming.ingestion.add(resuming.bases, "papers", [file("a.txt", "New words.")])
    assert taken.status == "replaced"
    assert isinstance(resuming.store, Held)
    resuming.store.go.set()
    await resuming.settle()
    assert (await resuming.texts())["a.txt"] == "New words."


async def test_a_document_that_is_deleted_while_a_start_makes_up_for_it_is_found_no_more(resuming: Desk) -> None:
    await resuming.ingestion.delete(resuming.bases, "papers", document_id("a.txt"))
    assert isinstance(resuming.store, Held)
    resuming.store.go.set()
    row = await resuming.bases.get("papers")
    assert await resuming.ingestion.settled(row.kb, [document_id("a.txt"), document_id("b.txt")], 300)
    assert document_id("a.txt") not in await resuming.store.indexed(await resuming.live())


class Interrupted(MemoryStore):
    """Says what it has stored, and begins to change an index, once `between` has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.between: Callable[[], Awaitable[None]] | None = None

    async def put_documents(self, kb: str, documents: Sequence[Document]) -> None:
        await super().put_documents(kb, documents)
        await self._pass()

    async def remove(self, index: Index, documents: Sequence[str]) -> None:
        await self._pass()
        await super().remove(index, documents)

    async def _pass(self) -> None:
        between, self.between = self.between, None
        if between is not None:
            await between()


async def fails() -> None:
    raise KnowledgeStoreFailed("the disk failed")


async def left(store: Interrupted, asked: Callable[[], Awaitable[object]]) -> None:
    """Whoever asks leaves while it is done."""
    waiting, go = asyncio.Event(), asyncio.Event()

    async def between() -> None:
        waiting.set()
        await go.wait()

    store.between = between
    task = asyncio.ensure_future(asked())
    async with asyncio.timeout(300):
        await waiting.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    go.set()


async def until_indexed(papers: Desk, *names: str) -> None:
    wanted = {document_id(name) for name in names}
    async with asyncio.timeout(300):
        while (await papers.store.indexed(await papers.live())).keys() != wanted:
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def interrupted(tmp_path: Path) -> AsyncIterator[tuple[Desk, Interrupted]]:
    store = Interrupted()
    async with desk(str(tmp_path), store) as papers:
        await papers.ingestion.add(papers.bases, "papers", [file("z.txt", "Z.")])
        await papers.settle()
        yield papers, store


async def test_a_document_whose_client_leaves_once_it_is_stored_is_found(
    interrupted: tuple[Desk, Interrupted],
) -> None:
    papers, store = interrupted
    await left(store, lambda: papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.")]))
    await until_indexed(papers, "a.txt", "z.txt")


async def test_a_document_that_is_stored_by_a_write_that_fails_is_found(interrupted: tuple[Desk, Interrupted]) -> None:
    papers, store = interrupted
    store.between = fails
    with pytest.raises(KnowledgeStoreFailed):
        await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.")])
    [again] = await papers.ingestion.add(papers.bases, "papers", [file("a.txt", "One.")])
    assert again.status == "unchanged"
    await until_indexed(papers, "a.txt", "z.txt")


async def test_a_document_whose_client_leaves_while_it_is_deleted_is_found_no_more(
    interrupted: tuple[Desk, Interrupted],
) -> None:
    papers, store = interrupted
    await left(store, lambda: papers.ingestion.delete(papers.bases, "papers", document_id("z.txt")))
    await until_indexed(papers)


async def test_a_document_that_is_deleted_from_half_of_all_places_is_found_no_more(
    interrupted: tuple[Desk, Interrupted],
) -> None:
    papers, store = interrupted
    store.between = fails
    with pytest.raises(KnowledgeStoreFailed):
        await papers.ingestion.delete(papers.bases, "papers", document_id("z.txt"))
    with pytest.raises(DocumentNotFound):
        await papers.ingestion.delete(papers.bases, "papers", document_id("z.txt"))
    await until_indexed(papers)


async def test_what_failed_of_a_document_that_was_replaced_meanwhile_is_not_told_of_the_new_one() -> None:
    work, error = Work(), DocumentUnreadable("no text")
    for each in ("replaced", "deleted", "same"):
        work.add({each: None})
    taken = work.take(3)
    work.add({"replaced": None})
    work.delete("deleted")
    for each in taken:
        work.fail(each, each, error, 10)
    assert work.progress().failed == (("same", "same", error),)
