"""What LanceDB alone needs: a trained index that finds what a full search finds, readers, leftovers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from unittest.mock import AsyncMock

import numpy as np
import pytest

from gateway.ask import columns, lance_index
from gateway.ask.forkless import AsyncTable
from gateway.ask.lance import LanceStore
from gateway.ask.passage import Chunk, Claim, Document, Index, Where, chunk_id
from gateway.ask.tables import Missing, Tables
from gateway.errors import IndexGone, KnowledgeStoreFailed
from tests.ask.stores import chunks, document, filled, indexed, spread, toward

ROWS, WIDTH = 3000, 64


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LanceStore]:
    store = LanceStore(str(tmp_path / "knowledge"))
    await store.open()
    yield store
    await store.close()


async def trained(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> tuple[Index, np.ndarray]:
    """A large index, for what counts as large here, of 300 documents that lie in groups."""
    monkeypatch.setattr(lance_index, "INDEXED", 1000)
    monkeypatch.setattr(lance_index, "PARTITION", 100)
    rng = np.random.default_rng(3)
    groups = rng.standard_normal((60, WIDTH))
    vectors = (groups[rng.integers(0, 60, ROWS)] + 0.5 * rng.standard_normal((ROWS, WIDTH))).astype(np.float32)
    row = await store.create("", "papers")
    index = await store.create_index(row.kb, "m", "g", WIDTH)
    documents = [document(f"d{n:03}", *[f"line {n}"] * 10, place=n) for n in range(300)]
    await store.upsert(index, documents, chunks(*documents), vectors)
    await store.finish(index)
    return index, vectors


async def kinds(store: LanceStore, index: Index) -> set[str]:
    table = await store._indexes.table(f"index-{index.id}")
    return {found.index_type for found in await table.list_indices()}


async def test_a_large_index_is_trained_and_finds_what_a_full_search_finds(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, vectors = await trained(store, monkeypatch)
    assert "IvfSq" in await kinds(store, index)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = 0
    for query in unit[::150]:
        nearest = {chunk_id(document(f"d{n // 10:03}").id, n % 10) for n in np.argsort(-(unit @ query))[:10]}
        hits = await store.search(index, query, None, 10)
        found += len(nearest & {hit.chunk.id for hit in hits})
        assert hits[0].cosine == pytest.approx(1.0, abs=1e-5)
    assert found >= 0.98 * 10 * len(unit[::150])


async def test_a_filter_that_leaves_few_is_answered_in_full(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = await trained(store, monkeypatch)
    for place in range(0, 300, 15):
        hits = await store.search(index, spread_wide(place), "line", 10, Where(metadata={"place": place}))
        assert len(hits) == 10
        assert {hit.metadata["place"] for hit in hits} == {place}


async def test_what_comes_after_training_is_found_too(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = await trained(store, monkeypatch)
    late = document("late", "gluons")
    await store.upsert(index, [late], chunks(late), spread_wide(1)[None])
    for _ in range(2):  # before and after another `finish`
        assert (await store.search(index, spread_wide(1), None, 1))[0].name == "late"
        assert (await store.search(index, None, "gluons", 1))[0].name == "late"
        await store.finish(index)
    await store.remove(index, [late.id])
    assert (await store.search(index, spread_wide(1), None, 1))[0].name != "late"


async def test_a_small_index_is_searched_whole(store: LanceStore) -> None:
    index = await filled(store, document("a", "one", "two"))
    assert await kinds(store, index) == {"FTS"}


def spread_wide(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


async def test_an_index_goes_only_when_its_readers_have_left(store: LanceStore) -> None:
    index = await filled(store, document("a", "one"))
    row = await store.row("/papers")
    await store.switch(row.kb, row.version, await store.create_index(row.kb, "m", "g", 8))
    async with store._reading(index) as table:
        dropping = asyncio.create_task(store.drop_index(index))
        while (await store.row("/papers")).previous:
            await asyncio.sleep(0)  # until the drop has begun
        with pytest.raises(IndexGone):
            await _nobody_new(store, index)
        assert await table.count_rows() == 1
        assert not dropping.done()
    await dropping
    with pytest.raises(Missing):
        await store._indexes.table(f"index-{index.id}")


async def _nobody_new(store: LanceStore, index: Index) -> None:
    while True:
        await store.count(index)
        await asyncio.sleep(0)


async def test_what_a_killed_drop_has_left_goes_at_the_next_start(store: LanceStore, tmp_path: Path) -> None:
    kept = await filled(store, document("a", "one"), name="kept")
    await filled(store, document("a", "one"))
    _, place = await store._registry.row("/papers")
    await store._registry.remove("/papers", place)  # and there it ended
    again = LanceStore(str(tmp_path / "knowledge"))
    await again.open()
    assert not [name for name in await again._tables.names("") if place in name]
    assert await again.count(kept) == 1
    assert await again.count_documents("/kept") == 1
    await again.close()


async def test_a_base_that_another_process_is_making_is_not_swept_away(store: LanceStore, tmp_path: Path) -> None:
    place = store._registry.new_place()
    await store._archive.make(place)  # and its row comes
    dead = f"{1:08x}{place[8:]}"
    await store._archive.make(dead)  # half a century ago: its row does not come
    again = LanceStore(str(tmp_path / "knowledge"))
    await again.open()
    assert await again._tables.names("documents-") == [f"documents-{place}"]
    await again.close()


async def test_who_makes_a_table_over_another_s_puts_back_what_was_in_it(
    store: LanceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gateways that start on an empty directory make the same tables at once, and LanceDB looks whether there is
    one before it commits: the slower covers the faster's."""
    row = await store.create("", "papers")
    slow = Tables(str(tmp_path / "knowledge"))
    await slow.open()
    create = slow.connection.create_table
    monkeypatch.setattr(slow.connection, "create_table", partial(create, mode="overwrite"))
    monkeypatch.setattr(slow, "table", AsyncMock(side_effect=Missing("registry")))
    await slow.made("registry", columns.REGISTRY)
    assert await store.rows() == [row]
    await slow.close()


async def test_an_index_whose_drop_was_killed_halfway_is_gone(store: LanceStore, tmp_path: Path) -> None:
    """LanceDB deletes file by file: with some of them gone a table still opens, and fails when it is read."""
    kept = await filled(store, document("a", "one"))
    half = await indexed(store, await store.row("/papers"), document("a", "one"))
    await store._registry.strike(half)
    folder = tmp_path / "knowledge" / f"index-{half.id}.lance"
    for path in (folder / "data").iterdir():
        path.unlink()
    assert await store.indexes("/papers") == [kept]
    with pytest.raises(IndexGone):
        await store.search(half, toward(1), "one", 5)
    again = LanceStore(str(tmp_path / "knowledge"))
    await again.open()
    assert not folder.exists()
    assert await again.count(kept) == 1
    await again.close()


async def test_an_index_that_was_never_made_whole_is_none(store: LanceStore, tmp_path: Path) -> None:
    kept = await filled(store, document("a", "one"))
    row, place = await store._registry.row("/papers")
    for name, made in (("old", 5.0), ("new", time.time())):  # entered, and there their makers ended
        half = Index(id=f"{place}-{name}", kb=row.kb, model="m", generation="g", dim=8, made=made)
        await store._registry.enter(half, place, ready=False)
    assert await store.indexes(row.kb) == [kept]
    again = LanceStore(str(tmp_path / "knowledge"))
    await again.open()
    assert [index.id for index in await again._registry.entries()] == [kept.id, f"{place}-new"]
    await again.close()


async def test_many_small_writes_leave_few_files(store: LanceStore, tmp_path: Path) -> None:
    row = await store.create("", "papers")
    index = await store.create_index(row.kb, "m", "g", 8)
    for n in range(70):
        put = document(f"d{n}", "one")
        await store.put_documents(row.kb, [put])
        await store.upsert(index, [put], chunks(put), spread(1))
    for table in (f"index-{index.id}", f"documents-{index.id.partition('-')[0]}"):
        handle = await store._indexes.table(table)
        assert (await handle.stats())["fragment_stats"]["num_fragments"] < 20
    assert await store.count(index) == await store.count_documents(row.kb) == 70


async def test_a_broken_table_is_told_as_ours_and_hides_no_other(store: LanceStore, tmp_path: Path) -> None:
    broken = await filled(store, document("a", "one"))
    whole = await filled(store, document("a", "one"), name="whole")
    for data in (tmp_path / "knowledge" / f"index-{broken.id}.lance" / "data").iterdir():
        data.write_bytes(b"")
    again = LanceStore(str(tmp_path / "knowledge"))
    await again.open()
    with pytest.raises(KnowledgeStoreFailed):
        await again.search(broken, toward(1), None, 5)
    assert len(await again.search(whole, toward(1), None, 5)) == 1
    assert len(await again.rows()) == 2
    await again.close()


async def test_vectors_of_another_width_are_never_put(store: LanceStore) -> None:
    put = document("a", "one")
    index = await filled(store, put)
    with pytest.raises(ValueError, match="8 numbers"):
        await store.upsert(index, [put], chunks(put), np.zeros((1, 4), dtype=np.float32))
    assert await store.count(index) == 1


def test_the_types_that_lie_on_disk_are_the_nouns() -> None:
    assert set(Chunk.__struct_fields__) == set(lance_index.columns.CHUNK)
    assert set(Document.__struct_fields__) <= set(lance_index.columns.DOCUMENTS.names)


FULL = "lance error: LanceError(IO): No space left on device (os error 28)"


async def test_a_disk_that_is_full_when_tables_are_tidied_is_told_as_ours(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ask.claims.TIDY_EVERY", 1)
    monkeypatch.setattr("gateway.ask.registry.TIDY_EVERY", 1)
    row = await store.create("", "papers")
    monkeypatch.setattr(AsyncTable, "optimize", AsyncMock(side_effect=RuntimeError(FULL)))
    with pytest.raises(KnowledgeStoreFailed, match="No space left"):
        await store.claim(row.kb, Claim(), "me")
    with pytest.raises(KnowledgeStoreFailed, match="No space left"):
        await store.create("", "notes")


async def test_an_index_that_cannot_be_made_dropped_or_listed_is_told_as_ours(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kb = (await filled(store, document("a", "one"))).kb
    index = await store.create_index(kb, "m", "h", 4)
    failing = AsyncMock(side_effect=OSError(30, "Read-only file system"))
    monkeypatch.setattr(lance_index, "prepare", failing)
    with pytest.raises(KnowledgeStoreFailed, match="Read-only"):
        await store.create_index(kb, "m", "i", 4)
    monkeypatch.setattr(store._tables.connection, "drop_table", failing)
    monkeypatch.setattr(store._tables.connection, "list_tables", failing)
    with pytest.raises(KnowledgeStoreFailed, match="Read-only"):
        await store.drop_index(index)
    with pytest.raises(KnowledgeStoreFailed, match="Read-only"):
        await store._tables.names("")


async def test_a_store_that_is_taken_away_while_it_is_used_is_told_as_ours(store: LanceStore, tmp_path: Path) -> None:
    row = await store.create("", "papers")
    (tmp_path / "knowledge").rename(tmp_path / "elsewhere")
    for look in (store.rows(), store.row(row.kb), store.claimed(row.kb), store.create("", "notes")):
        with pytest.raises(KnowledgeStoreFailed, match="lost its table"):
            await look


async def test_a_registry_that_is_cut_short_is_told_as_ours(store: LanceStore, tmp_path: Path) -> None:
    await store.create("", "papers")
    for manifest in (tmp_path / "knowledge" / "registry.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(manifest.read_bytes()[:20])
    with pytest.raises(KnowledgeStoreFailed):
        await LanceStore(str(tmp_path / "knowledge")).open()
