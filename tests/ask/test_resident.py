"""An index in memory finds what LanceDB finds, with the same scores; and a real corpus decides what that is."""

from __future__ import annotations

import asyncio
import inspect
import random
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gateway.ask import columns, words
from gateway.ask.fusion import fused
from gateway.ask.lance import LanceStore
from gateway.ask.passage import Document, Hit, Index, Where
from gateway.ask.resident import Resident
from gateway.ask.retrieval import RetrieveRequest
from gateway.errors import KnowledgeStoreFailed
from tests.ask.stores import DIM, chunks, document, filled, indexed, spread, toward

QUESTIONS = (
    "How are archives of members extracted to a directory?",
    "close the socket, the socket's connection",
    "random seeds, seeding a generator",
    "naïve datetime objects without time zones",
    "ÆTHER and café in Łódź",
    "the",
)


def corpus() -> list[Document]:
    """Docstrings of the standard library, four paragraphs to a document, and some texts that are no English."""
    import datetime
    import socket
    import tarfile

    found = []
    for module in (tarfile, random, datetime, socket, textwrap, argparse_module()):
        members = [inspect.getdoc(member) for _, member in inspect.getmembers(module)]
        lines = [line for line in dict.fromkeys(filter(None, members)) if line]
        texts = [part.replace("\n", " ") for text in lines for part in text.split("\n\n") if part.strip()]
        for number in range(0, len(texts), 4):
            found.append(document(f"{module.__name__}-{number}", *texts[number : number + 4], module=module.__name__))
    return [*found, document("others", "Ein naïves Café in Łódź", "日本語のテキスト", "Æther, Ångström and x²", "½ ½")]


def argparse_module() -> object:
    import argparse

    return argparse


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LanceStore]:
    store = LanceStore(str(tmp_path / "knowledge"), memory=2**26, rest=0.0)
    await store.open()
    yield store
    await store.close()


def told(hits: list[Hit]) -> list[tuple[str, str, dict[str, object]]]:
    return [(hit.chunk.id, hit.chunk.text, dict(hit.metadata)) for hit in hits]


def same(near: list[Hit], far: list[Hit]) -> bool:
    """The same hits in the same order, but for those whose scores are equal but for rounding."""
    assert sorted(told(near), key=str) == sorted(told(far), key=str)
    beside = {hit.chunk.id: hit for hit in far}
    for hit, there in zip(near, far, strict=True):
        twin = beside[hit.chunk.id]
        for mine, other in ((hit.cosine, twin.cosine), (hit.bm25, twin.bm25)):
            assert mine == (None if other is None else pytest.approx(other, abs=1e-4))
        assert hit.fused == pytest.approx(there.fused, abs=1e-6)
    return True


async def test_hits_and_scores_are_those_of_lancedb(store: LanceStore) -> None:
    documents = corpus()
    index = await filled(store, *documents, vectors=spread(sum(len(each.pages) for each in documents), seed=7))
    vectors, chosen = spread(len(QUESTIONS), seed=8), RetrieveRequest(kb="a", query="b", limit=20)
    some = Where(metadata={"module": ("socket", "random")})
    asked = [
        (index, vector, text, limit, where)
        for vector, text in zip(vectors, QUESTIONS, strict=True)
        for where in (None, some)
        for vector, text, limit in ((vector, text, 100), (vector, None, 10), (None, text, 10), (vector, text, 5))
    ]
    far = []
    for each in asked:
        store._memory.budget = 0  # LanceDB answers
        far.append((await store.search(*each), await store.search(*each, choose=chosen.choose)))
    store._memory.budget = 2**26
    await store.search(*asked[0])
    await store._memory.settled()
    assert store._memory.bytes > 0
    for each, (plain, picked) in zip(asked, far, strict=True):
        assert same(await store.search(*each), plain)
        if each[1] is not None:
            assert [hit.chunk.id for hit in await store.search(*each, choose=chosen.choose)] == [
                hit.chunk.id for hit in picked
            ]
    assert any(plain for plain, _ in far)


def test_orders_are_fused_as_every_store_fuses_them() -> None:
    index, count = Index(id="a", kb="/a", model="m", generation="g", dim=4), 60
    put = document("a", *[f"line{n}" for n in range(count)])
    held = columns.of_chunks(index, [put], chunks(put), np.ones((count, 4), dtype=np.float32)).select(columns.HELD)
    resident, ids, draw = Resident(held, 4), held["id"].to_pylist(), random.Random(0)
    for _ in range(50):  # what one question leaves behind would be seen by the next
        orders = [np.array(draw.sample(range(count), draw.randint(0, count)), dtype=np.int64) for _ in range(2)]
        places, scores = resident._fused(orders, 20)
        expected = list(fused(*([ids[place] for place in order] for order in orders)).items())[:20]
        assert [(ids[place], score) for place, score in zip(places, scores, strict=True)] == expected


async def test_questions_that_come_together_get_each_its_own_answer(store: LanceStore) -> None:
    put = document("a", *[f"line{n}" for n in range(50)])
    index = await filled(store, put, vectors=spread(50, seed=1))
    await store.search(index, toward(1), None, 1)
    await store._memory.settled()
    vectors = spread(50, seed=1)
    found = await asyncio.gather(*(store.search(index, vectors[n], f"line{n}", 1) for n in range(50)))
    assert [hits[0].chunk.text for hits in found] == [f"line{n}" for n in range(50)]


async def test_a_question_that_fails_fails_alone(store: LanceStore) -> None:
    index = await filled(store, document("a", "one"))
    await store.search(index, toward(1), None, 1)
    await store._memory.settled()
    wrong = store.search(index, np.ones(3, dtype=np.float32), None, 1)
    right = store.search(index, toward(1), None, 1)
    told = await asyncio.gather(wrong, right, return_exceptions=True)
    assert isinstance(told[0], KnowledgeStoreFailed)
    assert [hit.name for hit in told[1]] == ["a"]


def test_words_are_what_lancedb_makes_of_them() -> None:
    assert words.of_text("The owned, extracting EXTRACTED archives don't") == ["extract", "extract", "archiv"]
    assert words.of_text("Café x² " + "y" * 40) == ["cafe", "x2"]


async def held(store: LanceStore, index: Index) -> bool:
    """Whether the next search is answered from memory."""
    version = await (await store._indexes.table(f"index-{index.id}")).version()
    return store._memory.of(index, version) is not None


async def remembered(store: LanceStore, index: Index) -> None:
    await store.search(index, toward(1), "one", 5)
    await store._memory.settled()


async def test_what_another_process_writes_is_found_at_once(store: LanceStore, tmp_path: Path) -> None:
    index = await filled(store, document("a", "one"))
    await remembered(store, index)
    assert await held(store, index)
    other = LanceStore(str(tmp_path / "knowledge"))
    await other.open()
    late = document("b", "one more")
    await other.upsert(index, [late], chunks(late), spread(1))
    assert {hit.name for hit in await store.search(index, toward(1), "one", 5)} == {"a", "b"}
    await store._memory.settled()
    assert await held(store, index)
    await other.remove(index, [late.id])
    assert {hit.name for hit in await store.search(index, toward(1), "one", 5)} == {"a"}
    await other.close()


async def test_what_was_searched_least_recently_leaves_when_room_is_wanted(store: LanceStore) -> None:
    indexes = [await filled(store, document("a", "one"), name=f"kb{n}") for n in range(3)]
    await remembered(store, indexes[0])
    store._memory.budget = int(2.5 * store._memory.bytes)
    await remembered(store, indexes[1])
    await store.search(indexes[0], toward(1), "one", 5)
    await remembered(store, indexes[2])
    assert [await held(store, index) for index in indexes] == [True, False, True]
    assert store._memory.bytes <= store._memory.budget


async def test_an_index_that_is_too_large_is_searched_on_the_disk(store: LanceStore) -> None:
    store._memory.budget = 3 * DIM * 4  # two vectors fit, and not with their texts
    for name, texts in (("vectors", ["one"] * 10), ("texts", ["one"] * 2)):
        index = await filled(store, document("a", *texts), name=name)
        await remembered(store, index)
        assert not await held(store, index)
        assert len(await store.search(index, toward(1), "one", 20)) == len(texts)
    assert store._memory.bytes == 0


async def test_a_dropped_index_leaves_the_memory(store: LanceStore) -> None:
    first = await filled(store, document("a", "one"))
    await remembered(store, first)
    row = await store.row("/papers")
    await store.switch(row.kb, row.version, await indexed(store, row, document("a", "one")))
    await store.drop_index(first)
    assert store._memory.bytes == 0


async def test_without_a_budget_nothing_is_held(tmp_path: Path) -> None:
    store = LanceStore(str(tmp_path / "knowledge"))
    await store.open()
    index = await filled(store, document("a", "one"))
    await remembered(store, index)
    assert not await held(store, index)
    await store.close()


async def test_an_index_that_changes_all_the_time_is_not_made_anew_each_time(store: LanceStore) -> None:
    index = await filled(store, document("a", "one"))
    store._memory._rest = 1e9
    await remembered(store, index)
    assert await held(store, index)
    late = document("b", "one more")
    await store.upsert(index, [late], chunks(late), spread(1))
    await remembered(store, index)
    assert not await held(store, index)
    assert len(await store.search(index, toward(1), "one", 5)) == 2


async def test_what_is_held_is_not_replaced_by_an_earlier_version(store: LanceStore) -> None:
    index = await filled(store, document("a", "one"))
    await remembered(store, index)
    version = await (await store._indexes.table(f"index-{index.id}")).version()
    store._memory.follow(index, version - 1, lambda: store._snapshot(index, version - 1))
    await store._memory.settled()
    assert await held(store, index)
