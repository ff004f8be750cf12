"""Knowledge bases as callers have them, and that a query only ever meets vectors of the generation that embedded it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from gateway.ask.passage import Where
from gateway.ask.retrieval import RetrieveRequest, diverse
from gateway.ask.store import Candidates
from gateway.errors import (
    EmptyInput,
    InvalidBody,
    KnowledgeBaseExists,
    KnowledgeBaseNotFound,
    ModelNotFound,
    NoDefaultModel,
    WrongEmbeddingModel,
    WrongKind,
)
from tests import making
from tests.ask.asked import NOTES, PAPER, SAME, Asked, Reranker
from tests.ask.stores import document
from tests.catalog.world import M


@pytest.fixture
async def asked(tmp_path: Path, made: list[str]) -> Asked:
    asked = Asked(tmp_path)
    await asked.world.swap(made[0])
    return asked


async def test_a_passage_is_found_by_what_it_means_and_names_where_it_stands(asked: Asked) -> None:
    await asked.add(PAPER, NOTES)
    found = await asked.ask("a quadrupole focuses the beam", limit=1)
    (hit,) = found.hits
    assert hit.chunk.text == "a quadrupole focuses the beam"
    assert hit.cosine is not None
    assert hit.cosine > SAME
    assert (hit.name, hit.chunk.page) == ("paper", 2)
    assert PAPER.text[hit.chunk.start : hit.chunk.end] == hit.chunk.text


async def test_an_answer_names_the_model_and_the_generation_that_it_came_from(asked: Asked) -> None:
    await asked.add(PAPER)
    found = await asked.ask("beam")
    assert (found.model, found.generation) == (f"huggingface:{M}", asked.world.find().short)
    assert found.timings.total >= found.timings.embed + found.timings.search


async def test_a_new_base_is_empty_and_answers_so(asked: Asked) -> None:
    await asked.bases.create("papers", M)
    assert (await asked.ask("anything")).hits == ()


async def test_asking_an_unknown_base_creates_nothing(asked: Asked) -> None:
    with pytest.raises(KnowledgeBaseNotFound, match="papers"):
        await asked.ask("beam")
    with pytest.raises(KnowledgeBaseNotFound):
        await asked.bases.get("papers")
    assert await asked.bases.list() == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "a\n", "x" * 129, "ä", "../up"])
async def test_a_base_has_a_name_that_is_one(asked: Asked, name: str) -> None:
    with pytest.raises(InvalidBody):
        await asked.bases.create(name, M)


@pytest.mark.parametrize("name", ["list", "count", "sample", "docs"])
async def test_no_base_is_called_like_a_route_whoever_asks_for_it(asked: Asked, name: str) -> None:
    for refused in (asked.bases.create(name, M), asked.bases.ensure(name, M), asked.bases.get(name)):
        with pytest.raises(InvalidBody, match=f"`{name}` is a route"):
            await refused
    assert await asked.bases.list() == []


async def test_a_base_is_made_once(asked: Asked) -> None:
    await asked.bases.create("papers", M)
    with pytest.raises(KnowledgeBaseExists):
        await asked.bases.create("papers", M)
    rows = await asyncio.gather(*(asked.bases.ensure("others", M) for _ in range(8)))
    assert {row.kb for row in rows} == {"/others"}


async def test_deleting_a_base_leaves_those_with_similar_names(asked: Asked) -> None:
    for name in ("papers", "physics_papers", "papers2"):
        await asked.bases.create(name, M)
    await asked.bases.delete("papers")
    assert [row.name for row in await asked.bases.list()] == ["papers2", "physics_papers"]


async def test_a_base_is_its_tenants_alone_and_two_may_have_the_same_name(asked: Asked) -> None:
    ours, theirs = asked.of("a"), asked.of("b")
    await ours.create("papers", M)
    for seen in (theirs.get("papers"), theirs.delete("papers"), theirs.reindex("papers")):
        with pytest.raises(KnowledgeBaseNotFound):
            await seen
    with pytest.raises(KnowledgeBaseNotFound):
        await theirs.retrieve(RetrieveRequest(kb="papers", query="beam"))
    assert await theirs.list() == []
    await theirs.create("papers", M)
    await theirs.delete("papers")
    assert [row.owner for row in await ours.list()] == ["a"]


async def test_a_base_is_made_of_a_model_that_its_caller_sees_and_that_makes_vectors(
    asked: Asked, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound):
        await asked.of("a", namespaces=("elsewhere",)).create("papers", M)
    with pytest.raises(ModelNotFound):
        await asked.bases.create("papers", "finetuned/nobody")
    with pytest.raises(NoDefaultModel):
        await asked.bases.create("papers")
    making.reranker(asked.world.root / "finetuned" / "r")
    await asked.world.look()
    with pytest.raises(WrongKind):
        await asked.bases.create("papers", "finetuned/r")
    assert await asked.bases.list() == []


async def test_a_model_that_the_base_is_not_of_is_refused_with_the_one_that_it_is_of(
    asked: Asked, made: list[str]
) -> None:
    await asked.add(PAPER)
    await asked.world.swap(made[1], path="finetuned/other")
    with pytest.raises(WrongEmbeddingModel) as failure:
        await asked.ask("beam", embedding_model="finetuned/other")
    assert failure.value.details["embedding_model"] == f"huggingface:{M}"
    with pytest.raises(ModelNotFound):
        await asked.ask("beam", embedding_model="finetuned/nobody")
    with pytest.raises(WrongEmbeddingModel):
        await asked.bases.ensure("papers", "finetuned/other")


@pytest.mark.parametrize("spelling", ["m", M, f"huggingface:{M}", f"huggingface:models/{M}"])
async def test_every_spelling_of_the_bases_model_means_that_model(asked: Asked, spelling: str) -> None:
    await asked.add(PAPER)
    assert (await asked.ask("beam", embedding_model=spelling)).hits


async def test_a_generation_that_was_asked_for_answers_with_its_own_index_or_not_at_all(
    asked: Asked, made: list[str]
) -> None:
    await asked.add(PAPER)
    old = asked.world.find()
    (new,) = await asked.world.swap(made[1])
    with pytest.raises(WrongEmbeddingModel):
        await asked.ask("beam", embedding_model=f"{M}@{new.short}")
    await asked.follow.look()
    for generation in (old, new):
        text = "the cavity accelerates it"
        found = await asked.ask(text, embedding_model=f"{M}@{generation.short}", limit=1)
        assert found.generation == generation.short
        assert found.hits[0].cosine is not None
        assert found.hits[0].cosine > SAME


async def test_the_threshold_is_of_the_cosine_and_not_of_ranks(asked: Asked) -> None:
    await asked.add(PAPER, NOTES)
    text = "a quadrupole focuses the beam"
    found = await asked.ask(text, threshold=SAME)
    assert [hit.chunk.text for hit in found.hits] == [text]
    assert (await asked.ask("nothing of it", threshold=SAME)).hits == ()
    assert len((await asked.ask(text, threshold=-1.0, limit=20)).hits) == 5


async def test_words_find_what_the_meaning_misses(asked: Asked) -> None:
    await asked.add(PAPER, NOTES)
    by_words = await asked.ask("millibar", words=True)
    assert [hit.chunk.text for hit in by_words.hits] == ["vacuum is measured in millibar"]
    assert by_words.hits[0].cosine is None
    together = await asked.ask("millibar")
    assert any(hit.bm25 is not None for hit in together.hits)
    alone = await asked.ask("millibar", hybrid=False)
    assert all(hit.bm25 is None for hit in alone.hits)


async def test_metadata_chooses_before_the_search_does(asked: Asked) -> None:
    years = [document(f"d{year}", f"the beam of {year}", year=year) for year in range(2000, 2020)]
    await asked.add(*years)
    found = await asked.ask("beam", where=Where(metadata={"year": 2007}))
    assert [hit.metadata for hit in found.hits] == [{"year": 2007}]


async def test_a_reranker_decides_about_more_than_are_wanted(asked: Asked) -> None:
    reranker = Reranker()
    asked.world.engine.rerank = reranker.rerank  # type: ignore[attr-defined]  # the world's engine has none
    making.reranker(asked.world.root / "finetuned" / "r")
    await asked.world.look()
    lines = [f"line {number}" for number in range(30)]
    await asked.add(document("long", *lines, "the words of the query, and the query of words"))
    found = await asked.ask("the query of words", rerank="r", limit=2)
    assert found.hits[0].chunk.text == "the words of the query, and the query of words"
    assert found.reranker == "huggingface:finetuned/r"
    assert list(found.relevance) == sorted(found.relevance, reverse=True)
    assert (reranker.asked, len(found.hits)) == ([20], 2)


async def test_what_says_the_same_is_given_once_before_anything_else_is_given_twice(asked: Asked) -> None:
    copies = [document(f"copy{number}", "the beam is bent by a dipole") for number in range(6)]
    await asked.add(*copies, NOTES)
    plain = await asked.ask("the beam is bent by a dipole", limit=3)
    assert len({hit.chunk.text for hit in plain.hits}) == 1
    found = await asked.ask("the beam is bent by a dipole", limit=3, mmr=0.3)
    assert len({hit.chunk.text for hit in found.hits}) == 3


def _found(*pairs: tuple[float, float]) -> Candidates:
    cosines, words = zip(*pairs, strict=True)
    return Candidates(np.arange(len(pairs), 0, -1) / 100, np.array(cosines), np.array(words))


def test_meaning_and_words_are_weighed_by_how_much_better_a_hit_is_and_not_by_its_rank() -> None:
    close, words, neither = (0.9, 1.0), (0.88, 9.0), (0.2, 0.0)
    request = RetrieveRequest(kb="a", query="b")
    assert [place for place, _ in request.choose(_found(neither, close, words))] == [2, 1, 0]
    far = (0.3, 9.0)
    assert [place for place, _ in request.choose(_found(far, neither, close))] == [2, 0, 1]
    assert request.choose(Candidates(np.zeros(0), np.zeros(0), np.zeros(0))) == []
    assert request.choose(Candidates(np.array([0.01]), None, np.array([1.0]))) == [(0, 0.01)]


def test_a_threshold_and_a_limit_leave_the_best() -> None:
    found = _found((0.9, 0.0), (0.5, 5.0), (0.1, 9.0), (0.8, 0.0))
    request = RetrieveRequest(kb="a", query="b", threshold=0.4, limit=2)
    assert [place for place, _ in request.choose(found)] == [0, 3]


def test_without_diversity_the_order_is_that_of_the_scores() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert diverse([0.1, 0.4, 0.3, 0.2], vectors, 4, 1.0) == [1, 2, 3, 0]
    assert diverse([], vectors[:0], 4, 0.5) == []


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"query": " \n"}, EmptyInput),
        ({"limit": 0}, InvalidBody),
        ({"limit": 201}, InvalidBody),
        ({"threshold": 1.5}, InvalidBody),
        ({"threshold": float("nan")}, InvalidBody),
        ({"mmr": 0.0}, InvalidBody),
        ({"words": True, "threshold": 0.1}, InvalidBody),
    ],
)
async def test_what_makes_no_sense_is_refused(asked: Asked, wrong: dict[str, object], kind: type[Exception]) -> None:
    await asked.add(PAPER)
    with pytest.raises(kind):
        await asked.ask(**({"query": "beam"} | wrong))  # type: ignore[arg-type]  # that is the point


async def test_parallel_retrievals_do_not_wait_for_each_other(asked: Asked) -> None:
    await asked.add(PAPER)
    asked.world.engine.gate.clear()
    asked.world.engine.loading.clear()
    slow = asyncio.create_task(asked.ask("beam"))
    await asked.world.engine.begins()
    assert len((await asked.ask("beam", words=True)).hits) == 2
    assert not slow.done()
    asked.world.engine.gate.set()
    assert (await slow).hits
