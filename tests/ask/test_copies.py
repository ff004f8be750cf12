"""A store in a bucket searches on the local disk, and never in what is no longer so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.ask.copies import Copies
from gateway.ask.lance import LanceStore
from gateway.ask.passage import Hit, Index
from tests.ask.buckets import Bucket
from tests.ask.stores import chunks, document, filled, indexed, spread, toward


@pytest.fixture
async def store(bucket: Bucket, tmp_path: Path) -> AsyncIterator[LanceStore]:
    store = LanceStore(bucket.fresh(), bucket.options, str(tmp_path / "cache"), freshness=0.0, pause=0.0)
    await store.open()
    yield store
    await store.close()


def copies_of(store: LanceStore) -> Copies:
    assert store._copies is not None
    return store._copies


async def searched(store: LanceStore, index: Index) -> tuple[list[Hit], bool]:
    """What a search finds, and whether it was answered by a copy."""
    version = await (await store._indexes.table(f"index-{index.id}")).version()
    copied = await copies_of(store).of(index, version) is not None
    return await store.search(index, toward(1), "one", 5), copied


async def test_an_index_that_is_searched_is_copied_and_answers_the_same(store: LanceStore) -> None:
    index = await filled(store, document("a", "one", "two", year=2020), document("b", "three"))
    far, first = await searched(store, index)
    await copies_of(store).settled()
    near, second = await searched(store, index)
    assert (first, second) == (False, True)
    assert [hit.chunk for hit in near] == [hit.chunk for hit in far]
    assert [hit.cosine for hit in near] == pytest.approx([hit.cosine for hit in far])
    assert near[0].metadata == far[0].metadata


async def test_what_is_written_is_found_at_once_whatever_was_copied(store: LanceStore) -> None:
    index = await filled(store, document("a", "one"))
    await searched(store, index)
    await copies_of(store).settled()
    late = document("b", "one more")
    await store.upsert(index, [late], chunks(late), spread(1))
    hits, copied = await searched(store, index)
    assert {hit.name for hit in hits} == {"a", "b"}
    assert not copied
    await copies_of(store).settled()
    hits, copied = await searched(store, index)
    assert {hit.name for hit in hits} == {"a", "b"}
    assert copied


async def test_copies_outlive_a_restart_and_half_made_ones_do_not(
    store: LanceStore, bucket: Bucket, tmp_path: Path
) -> None:
    index = await filled(store, document("a", "one"))
    await searched(store, index)
    await copies_of(store).settled()
    await store.close()
    cache = tmp_path / "cache"
    (cache / f"copy-{index.id}-99.lance" / "data").mkdir(parents=True)
    again = LanceStore(store._tables._uri, bucket.options, str(cache), freshness=0.0)
    await again.open()
    assert await searched(again, index) == (await again.search(index, toward(1), "one", 5), True)
    assert len(list(cache.iterdir())) == 1
    await again.close()


async def test_the_copies_of_a_dropped_index_go(store: LanceStore, tmp_path: Path) -> None:
    first = await filled(store, document("a", "one"))
    await searched(store, first)
    await copies_of(store).settled()
    row = await store.row("/papers")
    await store.switch(row.kb, row.version, await indexed(store, row, document("a", "one")))
    await store.drop_index(first)
    assert [path for path in (tmp_path / "cache").iterdir() if first.id in path.name] == []
