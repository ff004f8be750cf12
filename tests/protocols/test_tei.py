"""text-embeddings-inference over HTTP: a base URL for each model, bare lists, its statuses and its headers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway import errors
from gateway.errors import leaves
from gateway.web.errors import answer
from gateway.web.tei import DIALECT
from tests.e2e.clients import TEXTS
from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")
PHYSICS = "/tei/finetuned/physics"
TIMES = ("compute", "total", "tokenization", "queue", "inference")
KINDS = {"Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"}


async def ask(gateway: RunningGateway, path: str, body: Any) -> tuple[int, Any]:
    async with gateway.session.post(path, json=body) as reply:
        return reply.status, await reply.json()


async def unit(gateway: RunningGateway, **body: Any) -> list[list[float]]:
    """The native answer, at unit length."""
    async with gateway.session.post("/embed", json={"normalize": True, **body}) as reply:
        rows: list[list[float]] = (await reply.json())["embeddings"]
        return rows


@pytest.mark.parametrize(
    "base",
    [PHYSICS, "/tei/huggingface:finetuned/physics", "/tei/finetuned%2Fphysics", "/tei/physics", "/tei/prod/search"],
)
async def test_the_model_is_in_the_base_url_in_any_spelling(gateway: RunningGateway, base: str) -> None:
    _, generation = await gateway.embed(TEXTS, "finetuned/physics")
    expected = await unit(gateway, inputs=TEXTS, model="finetuned/physics")
    for path in ("/embed", "", "/", "/invocations"):
        assert await ask(gateway, base + path, {"inputs": TEXTS}) == (200, expected)
    status, rows = await ask(gateway, f"/tei/finetuned/physics@{generation}/embed", {"inputs": TEXTS})
    assert (status, len(rows)) == (200, len(TEXTS))
    expected = await unit(gateway, inputs=TEXTS, model="rooted")
    assert await ask(gateway, "/tei/rooted/embed", {"inputs": TEXTS}) == (200, expected)


async def test_one_text_is_answered_with_one_row(gateway: RunningGateway) -> None:
    expected = await unit(gateway, inputs=["a laser"], model="finetuned/physics")
    for more in ({}, {"truncate": None}, {"truncate": True, "prompt_name": None}, {"unheard_of": 1}):
        assert await ask(gateway, f"{PHYSICS}/embed", {"inputs": "a laser", **more}) == (200, expected)


async def test_vectors_are_of_unit_length_unless_told_otherwise(gateway: RunningGateway) -> None:
    async with gateway.session.post("/embed", json={"inputs": TEXTS, "model": "finetuned/long"}) as reply:
        raw = (await reply.json())["embeddings"]
    assert await ask(gateway, "/tei/finetuned/long/embed", {"inputs": TEXTS, "normalize": False}) == (200, raw)
    _, unit = await ask(gateway, "/tei/finetuned/long/embed", {"inputs": TEXTS})
    np.testing.assert_allclose(np.linalg.norm(np.array(unit), axis=1), 1, atol=1e-6)
    _, cut = await ask(gateway, "/tei/finetuned/long/embed", {"inputs": TEXTS, "dimensions": 8})
    assert np.array(cut).shape == (len(TEXTS), 8)
    np.testing.assert_allclose(np.linalg.norm(np.array(cut), axis=1), 1, atol=1e-6)


async def test_a_prompt_is_taken_by_name(gateway: RunningGateway) -> None:
    expected = await unit(gateway, inputs=TEXTS, model="finetuned/prompted", prompt_name="passage")
    body = {"inputs": TEXTS, "prompt_name": "passage"}
    assert await ask(gateway, "/tei/finetuned/prompted/embed", body) == (200, expected)


async def test_the_headers_say_what_it_took(gateway: RunningGateway) -> None:
    async with gateway.session.post(f"{PHYSICS}/embed", json={"inputs": ["a laser", "naïve 🙂"]}) as reply:
        assert reply.headers["x-compute-type"] == "cpu"
        assert reply.headers["x-compute-characters"] == "14"
        assert int(reply.headers["x-compute-tokens"]) >= 6
        times = {name: int(reply.headers[f"x-{name}-time"]) for name in TIMES}
        assert times["total"] == times["compute"]
        assert times["total"] + 2 >= times["queue"] + times["inference"]  # each is rounded
        assert reply.headers["X-Model"] == "huggingface:finetuned/physics"


async def test_similarity_is_the_cosine(gateway: RunningGateway) -> None:
    vectors, _ = await gateway.embed(TEXTS, "finetuned/physics")
    body: dict[str, Any] = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}}
    for more in ({}, {"parameters": {}}, {"parameters": {"truncate": False}}, {"parameters": None}):
        status, scores = await ask(gateway, f"{PHYSICS}/similarity", {**body, **more})
        assert status == 200
        np.testing.assert_allclose(scores, vectors @ vectors[0], atol=1e-6)
    assert max(scores) <= 1.0


async def test_a_text_is_cut_on_the_side_that_is_asked_for(gateway: RunningGateway) -> None:
    long = "beam " * 300 + "laser " * 300
    for direction, text in (("Right", "beam " * 300), ("right", "beam " * 300), ("Left", "laser " * 300)):
        cut = await ask(gateway, f"{PHYSICS}/embed", {"inputs": long, "truncation_direction": direction})
        assert cut == await ask(gateway, f"{PHYSICS}/embed", {"inputs": text})


async def test_every_token_has_a_vector(gateway: RunningGateway) -> None:
    _, tokens = await ask(gateway, f"{PHYSICS}/tokenize", {"inputs": TEXTS})
    status, found = await ask(gateway, f"{PHYSICS}/embed_all", {"inputs": TEXTS})
    assert status == 200
    assert [np.array(rows).shape for rows in found] == [(len(ids), 32) for ids in tokens]
    means = np.array([np.mean(rows, axis=0) for rows in found])
    _, pooled = await ask(gateway, f"{PHYSICS}/embed", {"inputs": TEXTS})
    np.testing.assert_allclose(means / np.linalg.norm(means, axis=1, keepdims=True), pooled, atol=1e-5)
    _, alone = await ask(gateway, f"{PHYSICS}/embed_all", {"inputs": TEXTS[0]})
    np.testing.assert_allclose(alone[0], found[0], atol=1e-5)


async def test_texts_become_tokens_and_tokens_texts(gateway: RunningGateway) -> None:
    status, found = await ask(gateway, f"{PHYSICS}/tokenize", {"inputs": "a laser"})
    assert status == 200
    (tokens,) = found
    assert all(token.keys() == {"id", "text", "special", "start", "stop"} for token in tokens)
    assert [token["special"] for token in tokens] == [True, False, False, True]
    assert [(token["start"], token["stop"]) for token in tokens] == [(None, None), (0, 1), (2, 7), (None, None)]
    _, plain = await ask(gateway, f"{PHYSICS}/tokenize", {"inputs": ["a laser"], "add_special_tokens": False})
    assert plain == [tokens[1:3]]
    ids = [token["id"] for token in tokens]
    assert await ask(gateway, f"{PHYSICS}/decode", {"ids": ids}) == (200, ["a laser"])
    assert await ask(gateway, f"{PHYSICS}/decode", {"ids": [ids, ids[1:2]]}) == (200, ["a laser", "a"])
    _, whole = await ask(gateway, f"{PHYSICS}/decode", {"ids": ids, "skip_special_tokens": False})
    assert whole == ["[CLS] a laser [SEP]"]


@pytest.mark.parametrize("route", ["predict", "embed_sparse", "rerank"])
async def test_what_an_encoder_cannot_do_is_said(gateway: RunningGateway, route: str) -> None:
    body = {"inputs": "x", "query": "x", "texts": ["y"]}
    status, error = await ask(gateway, f"{PHYSICS}/{route}", body)
    assert (status, error["error_type"]) == (424, "Backend")
    assert "encoder" in error["error"]


async def test_openais_embeddings_are_under_the_base_url_too(gateway: RunningGateway) -> None:
    _, expected = await ask(gateway, "/v1/embeddings", {"input": TEXTS, "model": "finetuned/physics"})
    for path in ("/v1/embeddings", "/embeddings"):
        assert await ask(gateway, PHYSICS + path, {"input": TEXTS, "model": "whatever"}) == (200, expected)
    status, error = await ask(gateway, f"{PHYSICS}/v1/embeddings", {"input": []})
    assert (status, error.keys()) == (400, {"message", "code", "type"})
    assert (error["code"], error["type"]) == (400, "Empty")


async def test_info_says_what_the_model_is(gateway: RunningGateway) -> None:
    async with gateway.session.get(f"{PHYSICS}/info") as reply:
        found = await reply.json()
    async with gateway.session.get("/models/finetuned/physics") as reply:
        model = await reply.json()
    assert (found["model_id"], found["model_sha"]) == ("finetuned/physics", model["generation"])
    assert (found["model_dtype"], found["max_input_length"]) == ("float32", model["max_tokens"])
    assert found["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (found["max_client_batch_size"], found["auto_truncate"]) == (64, True)


async def test_health_is_that_of_the_model(gateway: RunningGateway) -> None:
    for path in ("/health", "/ping"):
        async with gateway.session.get(PHYSICS + path) as reply:
            assert (reply.status, await reply.read()) == (200, b"")
    async with gateway.session.get("/tei/finetuned/half/health") as reply:
        assert (reply.status, (await reply.json())["error_type"]) == (424, "Backend")
    async with gateway.session.get("/tei/finetuned/nothing/health") as reply:
        assert (reply.status, (await reply.json())["error_type"]) == (404, "Validation")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/embed", {}, 422, "Validation"),
        ("/embed", {"inputs": 3}, 422, "Validation"),
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": "x", "truncate": "yes"}, 422, "Validation"),
        ("/embed", {"inputs": "x", "prompt_name": "nope"}, 422, "Validation"),
        ("/embed", {"inputs": "x", "dimensions": 99}, 422, "Validation"),
        ("/embed", {"inputs": "beam " * 500, "truncate": False}, 422, "Validation"),
        ("/embed", {"inputs": ["x"] * 65}, 413, "Validation"),
        ("/embed", {"inputs": "x" * 1_000_001}, 413, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "x", "sentences": []}}, 400, "Empty"),
        ("/similarity", {"inputs": "x"}, 422, "Validation"),
        ("/embed", {"inputs": "x", "truncation_direction": "up"}, 422, "Validation"),
        ("/embed_all", {"inputs": []}, 400, "Empty"),
        ("/tokenize", {"inputs": []}, 400, "Empty"),
        ("/tokenize", {"inputs": [1]}, 422, "Validation"),
        ("/decode", {"ids": []}, 400, "Empty"),
        ("/decode", {"ids": [1, [2]]}, 422, "Validation"),
        ("/decode", {"ids": [10**6]}, 422, "Validation"),
        ("/rerank", {"query": "x", "texts": []}, 400, "Empty"),
        ("/rerank", {"texts": ["x"]}, 422, "Validation"),
    ],
)
async def test_what_is_wrong_is_said_in_its_words(
    gateway: RunningGateway, path: str, body: Any, status: int, kind: str
) -> None:
    found, error = await ask(gateway, PHYSICS + path, body)
    assert (found, error.keys(), error["error_type"]) == (status, {"error", "error_type"}, kind)
    assert error["error"]


async def test_what_does_not_parse_and_what_is_no_route_has_the_shape_too(gateway: RunningGateway) -> None:
    async with gateway.session.post(f"{PHYSICS}/embed", data=b"{") as reply:
        assert (reply.status, (await reply.json())["error_type"]) == (400, "Validation")
    async with gateway.session.get("/tei") as reply:
        assert (reply.status, (await reply.json())["error_type"]) == (404, "Validation")


@pytest.mark.parametrize("kind", list(leaves().values()), ids=list(leaves()))
async def test_every_error_can_be_said(kind: type[errors.GatewayError]) -> None:
    reply = answer(kind("it failed", retry_after=2.0), DIALECT)
    assert any(f'"error_type":"{name}"' in (reply.text or "") for name in KINDS)
    assert ("Retry-After" in reply.headers) == (reply.status in {429, 503})
