"""What a host is asked for besides vectors of texts: by the same queue, and beside them in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from gateway.host import encoder, host, pairs, spelling, stages, wire
from gateway.host.tokenize import Tokenizer
from gateway.model import Generation
from tests import making
from tests.host.test_host import Rig, block

TEXTS = ["the beam", "laser photon electron", "", "ring " * 30, "x-ray 光"]
TOKENS = wire.Options(pooled=False)


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return making.generation(making.encoder(tmp_path_factory.mktemp("models") / "m", dense=16))


@pytest.fixture(scope="module")
def reranking(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return making.generation(making.reranker(tmp_path_factory.mktemp("models") / "r"))


@pytest.fixture
async def rig(generation: Generation) -> AsyncIterator[Rig]:
    made = Rig(generation)
    yield made
    await made.close()


@pytest.fixture
async def scoring(reranking: Generation) -> AsyncIterator[Rig]:
    made = Rig(reranking, max_queue_tokens=1000)
    yield made
    await made.close()


def embed(rig: Rig, number: int, texts: list[str], options: wire.Options = wire.Options(), **more: Any) -> None:  # noqa: B008 - frozen
    rig.tell(wire.Embed(number, rig.generation.digest, texts, options, **more))


def rows(done: wire.Done, payload: bytes) -> np.ndarray:
    assert isinstance(done, wire.Done), done
    return np.frombuffer(payload, "<f4").reshape(done.rows, done.dim)


async def test_ids_have_the_vectors_of_their_texts(rig: Rig, generation: Generation) -> None:
    tokens = spelling.tokens(Tokenizer(generation), TEXTS, add_special_tokens=False)
    embed(rig, 1, TEXTS)
    embed(rig, 2, [], ids=[[token.id for token in each] for each in tokens])
    wanted, found = rows(*await rig.answer(1)), rows(*await rig.answer(2))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


async def test_each_token_has_a_vector_whatever_shares_the_call(rig: Rig, generation: Generation) -> None:
    await rig.load()
    gate = block(rig)
    embed(rig, 1, ["the beam"])
    embed(rig, 2, TEXTS, TOKENS)
    embed(rig, 3, TEXTS)
    embed(rig, 4, TEXTS[:2], TOKENS)
    await rig.until(lambda: rig.host.batcher.queue_tokens > 0)
    gate.set()
    ids = Tokenizer(generation).encode(TEXTS)
    loaded = encoder.load(generation, "cpu")
    wanted = loaded.token_vectors(ids)
    done, payload = await rig.answer(2)
    assert done.counts == [len(row) for row in ids]
    assert done.dim == generation.manifest.width == 32
    np.testing.assert_allclose(rows(done, payload), np.concatenate(wanted), atol=1e-5)
    np.testing.assert_allclose(rows(*await rig.answer(4)), np.concatenate(wanted[:2]), atol=1e-5)
    np.testing.assert_allclose(rows(*await rig.answer(3)), loaded.embed(ids), atol=1e-5)
    assert rows(*await rig.answer(1)).shape == (1, 16)


async def test_token_vectors_are_of_unit_length_only_where_that_is_asked(rig: Rig) -> None:
    embed(rig, 1, TEXTS, TOKENS)
    embed(rig, 2, TEXTS, wire.Options(normalize=True, dimensions=8, pooled=False))
    plain, unit = rows(*await rig.answer(1)), rows(*await rig.answer(2))
    assert np.abs(np.linalg.norm(plain, axis=1) - 1).min() > 0.1
    expected = plain[:, :8] / np.linalg.norm(plain[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, atol=1e-5)


async def test_more_token_vectors_than_an_answer_holds_are_refused_before_they_are_computed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "MOST_ANSWER", 4 * 32 * 10)
    embed(rig, 1, ["the beam"] * 3, TOKENS)
    embed(rig, 2, ["the beam"] * 2, TOKENS)
    failed, _ = await rig.answer(1)
    assert (failed.code, failed.details) == ("too_many_inputs", {"limit": 10, "tokens": 12})
    assert rows(*await rig.answer(2)).shape == (8, 32)
    assert [batch.texts for batch in rig.of(wire.Batch)] == [2]


async def test_a_call_of_token_vectors_that_the_device_has_no_memory_for_is_halved(rig: Rig) -> None:
    await rig.load()
    async with rig.host.pool.lease(rig.generation) as model:
        right = model.encoder.token_vectors
        calls: list[int] = []

        def short_of_memory(batch: Any) -> Any:
            calls.append(len(batch))
            if len(batch) > 2:
                raise encoder.memory.OutOfMemory("no room")
            return right(batch)

        model.encoder.token_vectors = short_of_memory
        embed(rig, 1, ["beam", "ring", "laser", "tune"], TOKENS)
        done, payload = await rig.answer(1)
        assert calls == [4, 2, 2]
        assert rows(done, payload).shape == (12, 32)


async def test_pairs_have_their_scores_in_the_order_of_the_texts(scoring: Rig, reranking: Generation) -> None:
    digest = reranking.digest
    for number, raw in ((1, False), (2, True)):
        scoring.tell(wire.Rerank(number, digest, "where is the beam?", TEXTS, wire.Options(), raw))
    logits = encoder.load(reranking, "cpu").embed(pairs.encode(Tokenizer(reranking), "where is the beam?", TEXTS))
    np.testing.assert_allclose(rows(*await scoring.answer(2)), logits, atol=1e-5)
    np.testing.assert_allclose(rows(*await scoring.answer(1)), stages.activated(logits, "Sigmoid"), atol=1e-5)


async def test_pairs_are_refused_by_a_full_queue_and_counted_with_their_query(
    scoring: Rig, reranking: Generation
) -> None:
    await scoring.load()
    gate = block(scoring)
    for number in (1, 2, 3, 4):
        command = wire.Rerank(number, reranking.digest, "the beam of the ring " * 20, ["ring"] * 8, wire.Options())
        scoring.tell(command)
        await asyncio.sleep(0)
    assert scoring.answers()[4][0].code == "overloaded"
    gate.set()
    assert isinstance((await scoring.answer(1))[0], wire.Done)
    await scoring.until(lambda: len(scoring.answers()) == 5)
    assert scoring.host.batcher.queue_tokens == 0


async def test_texts_are_tokenized_and_ids_decoded_while_the_device_is_busy(rig: Rig, generation: Generation) -> None:
    await rig.load()
    gate = block(rig)
    digest = generation.digest
    rig.tell(wire.Tokenize(1, digest, TEXTS, prompt="query: "))
    rig.tell(wire.Tokenize(2, digest, TEXTS, add_special_tokens=False))
    rig.tell(wire.Decode(3, digest, [[5, 11], []]))
    tokenizer = Tokenizer(generation)
    _, payload = await rig.answer(1)
    assert wire.tokens.decode(payload) == spelling.tokens(tokenizer, TEXTS, prompt="query: ")
    _, payload = await rig.answer(2)
    assert wire.tokens.decode(payload) == spelling.tokens(tokenizer, TEXTS, add_special_tokens=False)
    _, payload = await rig.answer(3)
    assert wire.texts.decode(payload) == ["the beam", ""]
    gate.set()
    assert rig.host.batcher.queue_tokens == 0


async def test_an_answer_of_tokens_has_a_limit_of_its_own(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "MOST_ANSWER", 100)
    rig.tell(wire.Tokenize(1, rig.generation.digest, ["the beam " * 50]))
    rig.tell(wire.Tokenize(2, rig.generation.digest, ["the beam"]))
    failed, _ = await rig.answer(1)
    assert (failed.code, failed.details) == ("too_many_inputs", {"limit": 100})
    assert isinstance((await rig.answer(2))[0], wire.Done)
