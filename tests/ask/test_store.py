"""What every store promises, whatever keeps it: in memory, in a directory, in a bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gateway.ask.passage import Claim, Head, Where, document_id
from gateway.ask.store import Store
from gateway.errors import DocumentNotFound, IndexGone, KnowledgeBaseExists, KnowledgeBaseNotFound
from tests.ask.buckets import Bucket
from tests.ask.memory_store import MemoryStore
from tests.ask.stores import DIM, chunks, document, filled, ids, indexed, recalling, spread, toward

HOSTILE = ["it's", 'a "b"', "x' OR '1'='1", "a\\'; --", "ä/ö ü", "日本", "..", "%_", "\u2028", "-- drop", "\U0001f600"]


@pytest.fixture(params=["memory", "lance", "held", "s3"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """Two openings of one store, as two processes have."""
    stores: tuple[Store, Store]
    if request.param == "memory":
        first = MemoryStore()
        stores = (first, MemoryStore(first))
    else:
        from gateway.ask.lance import LanceStore

        if request.param == "lance":
            stores = (LanceStore(str(tmp_path / "kb")), LanceStore(str(tmp_path / "kb")))
        elif request.param == "held":
            stores = (recalling(str(tmp_path / "kb")), recalling(str(tmp_path / "kb")))
        else:
            bucket: Bucket = request.getfixturevalue("bucket")
            uri = bucket.fresh()
            stores = (
                LanceStore(uri, bucket.options, str(tmp_path / "cache-1"), freshness=0.0, pause=0.0),
                LanceStore(uri, bucket.options, str(tmp_path / "cache-2"), freshness=0.0, pause=0.0),
            )
    for store in stores:
        await store.open()
    yield stores
    for store in stores:
        await store.close()


@pytest.fixture
def store(pair: tuple[Store, Store]) -> Store:
    return pair[0]


async def test_a_new_knowledge_base_is_there_for_all_and_is_empty(pair: tuple[Store, Store]) -> None:
    made = await pair[0].create("tenant", "papers", "finetuned/x")
    assert made == await pair[1].row("tenant/papers")
    assert (made.name, made.owner, made.embedding_model) == ("papers", "tenant", "finetuned/x")
    assert made.live is None
    assert await pair[1].count_documents(made.kb) == 0
    assert await pair[1].list_documents(made.kb) == []
    assert await pair[1].indexes(made.kb) == []


async def test_two_of_one_name_are_refused_and_two_owners_may_choose_the_same(pair: tuple[Store, Store]) -> None:
    await pair[0].create("", "papers")
    with pytest.raises(KnowledgeBaseExists):
        await pair[1].create("", "papers")
    await pair[1].create("other", "papers")
    assert [row.kb for row in await pair[0].rows()] == ["/papers", "other/papers"]
    assert [row.kb for row in await pair[0].rows("other")] == ["other/papers"]


async def test_of_many_that_create_one_name_one_succeeds(pair: tuple[Store, Store]) -> None:
    answers = await asyncio.gather(*(pair[n % 2].create("", "papers") for n in range(6)), return_exceptions=True)
    assert sum(isinstance(answer, KnowledgeBaseExists) for answer in answers) == 5
    assert len(await pair[0].rows()) == 1


async def test_what_is_not_there_is_told_and_not_made(store: Store) -> None:
    for asked in (
        store.row("/nothing"),
        store.drop("/nothing"),
        store.put_documents("/nothing", [document("a", "x")]),
        store.get_document("/nothing", "a"),
        store.list_documents("/nothing"),
        store.count_documents("/nothing"),
        store.create_index("/nothing", "m", "g", DIM),
        store.indexes("/nothing"),
    ):
        with pytest.raises(KnowledgeBaseNotFound):
            await asked
    assert await store.rows() == []


async def test_dropping_papers_leaves_physics_papers(store: Store) -> None:
    kept = await filled(store, document("a", "one"), name="physics_papers")
    gone = await filled(store, document("a", "one"), name="papers")
    await store.drop("/papers")
    assert [row.name for row in await store.rows()] == ["physics_papers"]
    assert await store.count(kept) == 1
    with pytest.raises(IndexGone):
        await store.count(gone)


async def test_a_name_that_was_dropped_begins_anew(pair: tuple[Store, Store]) -> None:
    await filled(pair[0], document("a", "one"))
    await pair[1].count_documents("/papers")
    await pair[0].drop("/papers")
    row = await pair[0].create("", "papers")
    for store in pair:
        assert await store.list_documents(row.kb) == []
        assert await store.indexes(row.kb) == []


async def test_a_document_comes_back_as_it_was(pair: tuple[Store, Store]) -> None:
    row = await pair[0].create("", "papers")
    put = document("ä.md", "Grüße 😀", "two", "", year=2020, title="it's", ratio=0.5, draft=False)
    await pair[0].put_documents(row.kb, [put])
    assert await pair[1].get_document(row.kb, put.id) == put
    assert await pair[1].list_documents(row.kb) == [Head.of(put)]


async def test_the_same_name_replaces_and_others_stay(pair: tuple[Store, Store]) -> None:
    row = await pair[0].create("", "papers")
    await pair[0].put_documents(row.kb, [document("a", "old"), document("b", "stays")])
    await pair[1].put_documents(row.kb, [document("a", "new")])
    found = await pair[0].get_document(row.kb, document_id("a"))
    assert found.text == "new\n"
    assert [head.name for head in await pair[0].list_documents(row.kb)] == ["a", "b"]


async def test_documents_are_listed_by_name_in_pages(store: Store) -> None:
    row = await store.create("", "papers")
    await store.put_documents(row.kb, [document(name, "x") for name in "cadbe"])
    assert [head.name for head in await store.list_documents(row.kb, offset=1, limit=3)] == ["b", "c", "d"]
    assert await store.count_documents(row.kb) == 5


async def test_a_deleted_document_is_gone_and_deleting_it_again_is_told(pair: tuple[Store, Store]) -> None:
    row = await pair[0].create("", "papers")
    await pair[0].put_documents(row.kb, [document("a", "x"), document("b", "x")])
    await pair[1].delete_document(row.kb, document_id("a"))
    assert [head.name for head in await pair[0].list_documents(row.kb)] == ["b"]
    for asked in (pair[0].get_document, pair[0].delete_document):
        with pytest.raises(DocumentNotFound):
            await asked(row.kb, document_id("a"))


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_names_are_names(pair: tuple[Store, Store], name: str) -> None:
    put, other = document(name, "one", source=name, key=name), document("other", "one")
    index = await filled(pair[0], put, other)
    assert await pair[1].get_document("/papers", put.id) == put
    for where in (Where(names=(name,)), Where(sources=(name,)), Where(metadata={"key": name})):
        hits = await pair[1].search(index, toward(1), "one", 10, where)
        assert [(hit.name, hit.source, hit.metadata) for hit in hits] == [(name, name, {"key": name})]
    await pair[1].delete_document("/papers", put.id)
    assert [head.name for head in await pair[0].list_documents("/papers")] == ["other"]


async def test_an_index_says_what_it_is_to_everybody(pair: tuple[Store, Store]) -> None:
    row = await pair[0].create("", "papers")
    first = await pair[0].create_index(row.kb, "finetuned/x", "a" * 64, DIM, "256 tokens")
    second = await pair[0].create_index(row.kb, "finetuned/x", "b" * 64, 4)
    assert await pair[1].indexes(row.kb) == [first, second]
    assert (first.kb, first.model, first.generation, first.dim, first.chunking) == (
        row.kb,
        "finetuned/x",
        "a" * 64,
        DIM,
        "256 tokens",
    )
    assert (await pair[1].row(row.kb)).live is None


async def test_the_nearest_come_first_with_their_exact_cosine(pair: tuple[Store, Store]) -> None:
    put = document("a", "north", "northeast", "south")
    vectors = np.stack([toward(0, 2), toward(3, 3), toward(0, -1)])
    index = await filled(pair[0], put, vectors=vectors)
    hits = await pair[1].search(index, toward(0, 1), None, 3)
    assert [hit.chunk for hit in hits] == chunks(put)
    assert [hit.cosine for hit in hits] == pytest.approx([1.0, 0.5**0.5, -1.0], abs=1e-6)
    assert [hit.bm25 for hit in hits] == [None, None, None]
    assert (hits[0].name, hits[0].source) == ("a", "file:a")


async def test_words_find_what_the_vector_does_not(pair: tuple[Store, Store]) -> None:
    put = document("a", "the quark and the gluon", "an apple", "a pear")
    index = await filled(pair[0], put, vectors=np.stack([toward(-1), toward(1), toward(1, 1)]))
    words = await pair[1].search(index, None, "which gluon?", 3)
    assert [hit.chunk.text for hit in words] == ["the quark and the gluon"]
    assert words[0].cosine is None
    assert (words[0].bm25 or 0) > 0
    both = await pair[1].search(index, toward(1), "gluon", 1)
    assert both[0].chunk.text == "the quark and the gluon"  # last by the vector, first by the words
    assert both[0].cosine == pytest.approx(-1.0)


async def test_fewer_hits_than_asked_for_are_no_error(store: Store) -> None:
    index = await filled(store, document("a", "one"))
    assert len(await store.search(index, toward(1), "one", 50)) == 1
    assert await store.search(index, None, "nothing like it", 50) == []
    assert await store.search(index, None, "?!()\"'", 50) == []
    assert await store.search(index, None, "", 50) == []


async def test_an_empty_index_answers_with_nothing(store: Store) -> None:
    row = await store.create("", "papers")
    index = await store.create_index(row.kb, "m", "g", DIM)
    assert await store.search(index, toward(1), "one", 5) == []
    await store.finish(index)
    assert await store.search(index, toward(1), "one", 5) == []
    assert await store.count(index) == 0
    assert await store.indexed(index) == {}


async def test_a_vector_of_zeros_has_no_direction_and_breaks_nothing(store: Store) -> None:
    index = await filled(store, document("a", "one", "two"), vectors=np.stack([toward(0), toward(1)]))
    hits = {hit.chunk.text: hit.cosine for hit in await store.search(index, toward(1), "one two", 5)}
    assert hits == {"one": 0.0, "two": pytest.approx(1.0)}
    assert all(hit.cosine == 0.0 for hit in await store.search(index, toward(0), "one", 5))


async def test_a_filter_is_applied_before_the_search(store: Store) -> None:
    many = [document(f"d{n}", f"text {n}", year=2000 + n % 50, ratio=n / 2, final=n % 2 == 0) for n in range(200)]
    index = await filled(store, *many)
    hits = await store.search(index, spread(1, seed=5)[0], "text", 10, Where(metadata={"year": (2007, 2008)}))
    assert len(hits) == 8
    assert {hit.metadata["year"] for hit in hits} == {2007, 2008}
    both = Where(metadata={"year": 2007, "ratio": 3.5}, names=("d7", "d8"))
    assert [hit.name for hit in await store.search(index, toward(1), None, 10, both)] == ["d7"]
    one = Where(documents=(document_id("d9"),))
    assert [hit.name for hit in await store.search(index, None, "text", 10, one)] == ["d9"]
    assert await store.search(index, toward(1), "text", 10, Where(metadata={"year": 1900})) == []
    assert await store.search(index, toward(1), "text", 10, Where(metadata={"none": "x"})) == []


async def test_filters_compare_numbers_by_value_and_never_with_texts_or_booleans(store: Store) -> None:
    index = await filled(store, document("int", "x", v=1), document("text", "x", v="1"), document("bool", "x", v=True))
    for value, name in ((1, "int"), (1.0, "int"), ("1", "text"), (True, "bool")):
        hits = await store.search(index, toward(1), None, 10, Where(metadata={"v": value}))
        assert [hit.name for hit in hits] == [name]


async def test_putting_chunks_again_changes_nothing(pair: tuple[Store, Store]) -> None:
    put = document("a", "one", "two")
    index = await filled(pair[0], put)
    await pair[1].upsert(index, [put], chunks(put), spread(2))
    assert await pair[0].count(index) == 2
    assert await pair[0].chunks(index) == chunks(put)


async def test_a_document_that_became_shorter_leaves_no_tail(pair: tuple[Store, Store]) -> None:
    index = await filled(pair[0], document("a", "one", "two", "three"), document("b", "other"))
    shorter = document("a", "uno")
    await pair[0].upsert(index, [shorter], chunks(shorter), spread(1))
    assert {chunk.text for chunk in await pair[1].chunks(index)} == {"uno", "other"}
    assert (await pair[1].indexed(index))[shorter.id] == shorter.digest
    assert await pair[1].search(index, None, "three", 5) == []


async def test_a_document_without_chunks_leaves_none(store: Store) -> None:
    put = document("a", "one")
    index = await filled(store, put)
    await store.upsert(index, [put], [], np.zeros((0, DIM), dtype=np.float32))
    assert await store.count(index) == 0


async def test_a_large_document_may_come_in_parts(store: Store) -> None:
    put = document("a", "one", "two", "three")
    row = await store.create("", "papers")
    index = await store.create_index(row.kb, "m", "g", DIM)
    cut = chunks(put)
    await store.upsert(index, [put], cut[:2], spread(2), whole=False)
    await store.upsert(index, [put], cut[2:], spread(1), whole=False)
    assert await store.chunks(index, put.id) == cut


async def test_removed_documents_are_found_no_more(pair: tuple[Store, Store]) -> None:
    gone, kept = document("a", "one", "two"), document("b", "one")
    index = await filled(pair[0], gone, kept)
    await pair[1].remove(index, [gone.id, "f" * 32])
    await pair[1].remove(index, [])
    assert await pair[0].indexed(index) == {kept.id: kept.digest}
    assert {hit.name for hit in await pair[0].search(index, toward(1), "one two", 10)} == {"b"}


async def test_chunks_and_their_vectors_can_be_read_back(pair: tuple[Store, Store]) -> None:
    first, second = document("a", "one", "two"), document("b", "three")
    vectors = spread(3, seed=4)
    index = await filled(pair[0], first, second, vectors=vectors)
    cut = chunks(first, second)
    asked = [cut[2].id, "nobody:0", cut[0].id]
    found = await pair[1].vectors(index, asked)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.stack([vectors[2], np.zeros(DIM, dtype=np.float32), vectors[0]]))
    assert (await pair[1].vectors(index, [])).shape == (0, DIM)
    assert ids(await pair[1].chunks(index, first.id)) == ids(cut[:2])
    assert ids(await pair[1].chunks(index, first.id, offset=1, limit=5)) == [cut[1].id]
    assert len(await pair[1].chunks(index, limit=2)) == 2


async def test_a_switch_is_seen_by_all_and_keeps_what_was_live(pair: tuple[Store, Store]) -> None:
    put = document("a", "one")
    first = await filled(pair[0], put)
    row = await pair[1].row("/papers")
    assert row.live == first
    second = await indexed(pair[0], row, put)
    assert await pair[1].switch(row.kb, row.version, second, "finetuned/y")
    after = await pair[0].row(row.kb)
    assert (after.live, after.previous, after.embedding_model) == (second, (first,), "finetuned/y")
    assert after.version > row.version
    assert await pair[0].switch(row.kb, after.version, first)  # and back
    back = await pair[1].row(row.kb)
    assert (back.live, back.previous, back.embedding_model) == (first, (second,), "finetuned/y")


async def test_a_switch_with_an_old_version_does_nothing(pair: tuple[Store, Store]) -> None:
    put = document("a", "one")
    first = await filled(pair[0], put)
    row = await pair[0].row("/papers")
    second = await indexed(pair[1], row, put)
    assert not await pair[0].switch(row.kb, row.version - 1, second)
    assert (await pair[1].row(row.kb)).live == first


async def test_of_many_that_switch_at_once_exactly_one_wins(pair: tuple[Store, Store]) -> None:
    put = document("a", "one")
    await filled(pair[0], put)
    row = await pair[0].row("/papers")
    built = [await indexed(pair[0], row, put) for _ in range(4)]
    won = await asyncio.gather(*(pair[n % 2].switch(row.kb, row.version, index) for n, index in enumerate(built)))
    assert sum(won) == 1
    for store in pair:
        assert (await store.row(row.kb)).live == built[won.index(True)]


async def test_an_index_that_is_gone_is_not_switched_to(store: Store) -> None:
    put = document("a", "one")
    first = await filled(store, put)
    row = await store.row("/papers")
    second = await indexed(store, row, put)
    await store.drop_index(second)
    with pytest.raises(IndexGone):
        await store.switch(row.kb, row.version, second)
    assert (await store.row(row.kb)).live == first


async def test_a_live_index_is_not_dropped_and_an_earlier_one_leaves_the_row(pair: tuple[Store, Store]) -> None:
    put = document("a", "one")
    first = await filled(pair[0], put)
    row = await pair[0].row("/papers")
    second = await indexed(pair[0], row, put)
    await pair[0].switch(row.kb, row.version, second)
    with pytest.raises(ValueError, match="live"):
        await pair[1].drop_index(second)
    await pair[1].drop_index(first)
    await pair[1].drop_index(first)
    assert (await pair[0].row(row.kb)).previous == ()
    assert await pair[0].indexes(row.kb) == [second]
    for store in pair:
        with pytest.raises(IndexGone):
            await store.search(first, toward(1), "one", 5)
        with pytest.raises(IndexGone):
            await store.upsert(first, [put], chunks(put), spread(1))


async def test_readers_never_see_half_of_an_upsert(pair: tuple[Store, Store]) -> None:
    """Each document has ten chunks that all say the same; a reader that sees two words in one has seen a half."""
    index = await filled(pair[0], document("a", *["word0"] * 10))
    done = asyncio.Event()

    async def write() -> None:
        for n in range(1, 13):
            put = document("a", *[f"word{n}"] * 10)
            await pair[0].upsert(index, [put], chunks(put), spread(10))
            if n % 4 == 0:
                await pair[0].finish(index)
        done.set()

    async def read() -> list[set[str]]:
        seen = []
        while not done.is_set():
            hits = await pair[1].search(index, toward(1), None, 20)
            assert len(hits) == 10
            seen.append({hit.chunk.text for hit in hits})
            await asyncio.sleep(0)  # a store in memory never gives way by itself
        return seen

    _, seen = await asyncio.gather(write(), read())
    assert all(len(words) == 1 for words in seen)


async def test_many_may_write_one_knowledge_base_at_once(pair: tuple[Store, Store]) -> None:
    row = await pair[0].create("", "papers")
    index = await pair[0].create_index(row.kb, "m", "g", DIM)

    async def write(n: int) -> None:
        put = document(f"d{n}", f"text {n}", "more")
        await pair[n % 2].put_documents(row.kb, [put])
        await pair[n % 2].upsert(index, [put], chunks(put), spread(2))

    await asyncio.gather(*(write(n) for n in range(8)))
    for store in pair:
        assert await store.count_documents(row.kb) == 8
        assert await store.count(index) == 16


async def test_a_claim_is_changed_only_by_who_knows_what_it_is(pair: tuple[Store, Store]) -> None:
    row = await pair[0].create("", "papers")
    free = await pair[0].claimed(row.kb)
    assert free == Claim()
    assert await pair[0].claim(row.kb, free, "one")
    assert await pair[1].claimed(row.kb) == Claim("one", 1)
    for other in (free, Claim("one", 2), Claim("other", 1)):
        assert not await pair[1].claim(row.kb, other, "other")
    assert await pair[0].claim(row.kb, Claim("one", 1), "one")
    assert await pair[1].claimed(row.kb) == Claim("one", 2)
    assert await pair[1].claim(row.kb, Claim("one", 2), "it's another")
    assert await pair[0].claimed(row.kb) == Claim("it's another", 3)
    assert (await pair[0].row(row.kb)).version == row.version


async def test_a_claim_that_is_given_back_never_looks_like_one_before(pair: tuple[Store, Store]) -> None:
    row = await pair[0].create("", "papers")
    assert await pair[0].claim(row.kb, Claim(), "one")
    assert await pair[0].claim(row.kb, Claim("one", 1), "")
    assert await pair[1].claimed(row.kb) == Claim("", 2)
    assert not await pair[1].claim(row.kb, Claim(), "other")
    assert await pair[1].claim(row.kb, Claim("", 2), "other")


async def test_of_many_that_claim_at_once_one_has_it(pair: tuple[Store, Store]) -> None:
    row = await pair[0].create("", "papers")
    had = await asyncio.gather(*(pair[each % 2].claim(row.kb, Claim(), str(each)) for each in range(8)))
    assert had.count(True) == 1
    first = Claim(str(had.index(True)), 1)
    assert await pair[1].claimed(row.kb) == first
    had = await asyncio.gather(*(pair[each % 2].claim(row.kb, first, str(each)) for each in range(8)))
    assert had.count(True) == 1
    assert await pair[1].claimed(row.kb) == Claim(str(had.index(True)), 2)


async def test_a_base_that_has_gone_cannot_be_claimed(store: Store) -> None:
    with pytest.raises(KnowledgeBaseNotFound):
        await store.claimed("/gone")
    with pytest.raises(KnowledgeBaseNotFound):
        await store.claim("/gone", Claim(), "one")
