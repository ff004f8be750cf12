"""OpenAI over HTTP: the shapes that its clients parse, and the statuses that decide which exception they raise."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from gateway import errors
from gateway.errors import leaves
from gateway.web.errors import answer
from gateway.web.openai import DIALECT
from tests.e2e.clients import TEXTS
from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ask(gateway: RunningGateway, **body: Any) -> tuple[int, Any]:
    async with gateway.session.post("/v1/embeddings", json=body) as reply:
        return reply.status, await reply.json()


def packed(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), "<f4")


async def test_the_vectors_are_those_of_the_native_protocol_numbered(gateway: RunningGateway) -> None:
    expected, _ = await gateway.embed(TEXTS, "finetuned/physics")
    status, body = await ask(gateway, input=TEXTS, model="finetuned/physics")
    assert status == 200
    assert body.keys() == {"object", "data", "model", "usage"}
    assert (body["object"], body["model"]) == ("list", "finetuned/physics")
    assert [(row["object"], row["index"]) for row in body["data"]] == [("embedding", n) for n in range(len(TEXTS))]
    assert np.array_equal(np.array([row["embedding"] for row in body["data"]], "f4"), expected)
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > len(TEXTS) * 3


async def test_base64_is_the_floats(gateway: RunningGateway) -> None:
    expected, _ = await gateway.embed(TEXTS, "finetuned/physics")
    _, body = await ask(gateway, input=TEXTS, model="finetuned/physics", encoding_format="base64")
    assert np.array_equal(np.array([packed(row["embedding"]) for row in body["data"]]), expected)


async def test_one_text_is_a_list_of_one_and_fields_of_no_meaning_do_no_harm(gateway: RunningGateway) -> None:
    expected, _ = await gateway.embed(["a laser"], "finetuned/physics")
    for more in ({}, {"user": "me"}, {"encoding_format": None, "dimensions": None}, {"service_tier": "x"}):
        status, body = await ask(gateway, input="a laser", model="finetuned/physics", **more)
        assert status == 200
        assert np.array_equal(np.array([body["data"][0]["embedding"]], "f4"), expected)


async def test_token_ids_give_the_vector_of_their_text(gateway: RunningGateway) -> None:
    expected, _ = await gateway.embed(TEXTS, "finetuned/physics")
    async with gateway.session.post("/tei/finetuned/physics/tokenize", json={"inputs": TEXTS}) as reply:
        ids = [[token["id"] for token in tokens] for tokens in await reply.json()]
    status, body = await ask(gateway, input=ids, model="finetuned/physics")
    assert status == 200, body
    np.testing.assert_allclose([row["embedding"] for row in body["data"]], expected, atol=1e-6)
    _, body = await ask(gateway, input=ids[1], model="finetuned/physics")
    np.testing.assert_allclose([row["embedding"] for row in body["data"]], expected[1:2], atol=1e-6)
    async with gateway.session.post("/embed", json={"inputs": ids, "model": "finetuned/physics"}) as reply:
        np.testing.assert_allclose((await reply.json())["embeddings"], expected, atol=1e-6)


async def test_what_is_too_long_is_cut_on_the_side_that_is_asked_for(gateway: RunningGateway) -> None:
    long = "beam " * 300 + "laser " * 300
    for side, text in (("right", "beam " * 300), ("left", "laser " * 300)):
        _, cut = await ask(gateway, input=long, model="finetuned/physics", truncation_side=side)
        _, expected = await ask(gateway, input=text, model="finetuned/physics")
        assert cut["data"] == expected["data"]


async def test_dimensions_prompts_and_normalize_are_those_of_the_native_protocol(gateway: RunningGateway) -> None:
    for options in (
        {"model": "finetuned/physics", "dimensions": 8},
        {"model": "finetuned/prompted", "prompt_name": "passage"},
        {"model": "finetuned/prompted", "prompt": "say: "},
        {"model": "finetuned/long", "normalize": True},
    ):
        async with gateway.session.post("/embed", json={"inputs": TEXTS, **options}) as reply:
            expected = (await reply.json())["embeddings"]
        status, body = await ask(gateway, input=TEXTS, **options)
        assert (status, [row["embedding"] for row in body["data"]]) == (200, expected)


async def test_a_large_answer_is_whole(gateway: RunningGateway) -> None:
    texts = [f"beam {number}" for number in range(64)]
    model = "sentence-transformers/all-MiniLM-L6-v2"
    expected, _ = await gateway.embed(texts, model)
    _, body = await ask(gateway, input=texts, model=model)
    assert [row["index"] for row in body["data"]] == list(range(64))
    assert np.allclose(np.array([row["embedding"] for row in body["data"]], "f4"), expected, atol=1e-6)


async def test_models_are_listed_as_cards(gateway: RunningGateway) -> None:
    async with gateway.session.get("/v1/models") as reply:
        body = await reply.json()
    cards = {card["id"]: card for card in body["data"]}
    assert body["object"] == "list"
    physics = cards["finetuned/physics"]
    assert physics.keys() == {"id", "object", "created", "owned_by", "root", "parent"}
    assert physics["created"] > 1_600_000_000
    assert (physics["object"], physics["owned_by"]) == ("model", "finetuned")
    assert (physics["root"], physics["parent"]) == ("finetuned/physics", "acme/base")
    assert (cards["rooted"]["owned_by"], cards["rooted"]["parent"]) == ("dropgate", None)
    assert cards["prod/search"]["root"] == "finetuned/physics"
    assert "finetuned/half" not in cards  # it cannot be asked for


@pytest.mark.parametrize(
    ("spelling", "card"),
    [
        ("finetuned/physics", "finetuned/physics"),
        ("finetuned%2Fphysics", "finetuned/physics"),
        ("huggingface:finetuned/physics", "finetuned/physics"),
        ("physics", "finetuned/physics"),
        ("prod/search", "prod/search"),
    ],
)
async def test_one_card_is_found_by_any_spelling(gateway: RunningGateway, spelling: str, card: str) -> None:
    async with gateway.session.get("/v1/models") as reply:
        cards = {each["id"]: each for each in (await reply.json())["data"]}
    async with gateway.session.get(f"/v1/models/{spelling}") as reply:
        assert (reply.status, await reply.json()) == (200, cards[card])


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"input": "x", "model": "finetuned/nothing"}, 404, "model", "model_not_found"),
        ({"input": "x", "model": "finetuned/half"}, 409, "model", "model_rejected"),
        ({"input": "x", "model": "../etc"}, 400, "model", "invalid_model_id"),
        ({"model": "finetuned/physics"}, 400, None, "invalid_body"),
        ({"input": [], "model": "finetuned/physics"}, 400, "input", "empty_input"),
        ({"input": ["a", 3], "model": "finetuned/physics"}, 400, "input", "invalid_body"),
        ({"input": [[1, 2], [10**6]], "model": "finetuned/physics"}, 400, "input", "invalid_input"),
        ({"input": [-1], "model": "finetuned/physics"}, 400, "input[0]", "invalid_body"),
        ({"input": ["a", [1]], "model": "finetuned/physics"}, 400, "input", "invalid_input"),
        ({"input": ["a", None], "model": "finetuned/physics"}, 400, "input[1]", "invalid_body"),
        ({"input": ["x"] * 65, "model": "finetuned/physics"}, 400, "input", "too_many_inputs"),
        ({"input": "x", "model": "finetuned/physics", "dimensions": 99}, 400, "dimensions", "invalid_dimensions"),
        ({"input": "x", "model": "finetuned/physics", "prompt_name": "y"}, 400, "prompt_name", "unknown_prompt"),
        (
            {"input": "beam " * 500, "model": "finetuned/physics", "truncate": False},
            400,
            "input",
            "context_length_exceeded",
        ),
        ({"input": "x" * 1_000_001, "model": "finetuned/physics"}, 413, None, "body_too_large"),
    ],
)
async def test_what_is_wrong_is_said_as_openai_says_it(
    gateway: RunningGateway, body: dict[str, Any], status: int, param: str | None, code: str
) -> None:
    found, document = await ask(gateway, **body)
    assert document.keys() == {"error"}
    error = document["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (found, error["type"], error["param"], error["code"]) == (status, "invalid_request_error", param, code)
    assert error["message"]


async def test_what_is_refused_before_any_handler_has_the_shape_too(gateway: RunningGateway) -> None:
    async with gateway.session.get("/v1/nothing") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (404, "route_not_found")
        assert (await reply.json())["error"].keys() == {"message", "type", "param", "code"}
    async with gateway.session.get("/v1/embeddings") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (405, "method_not_allowed")
        assert reply.headers["Allow"] == "POST"
    async with gateway.session.post("/v1/embeddings", data=b"{") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (400, "invalid_json")
        assert reply.headers["X-Gateway-Error"] == "invalid_json"
    async with gateway.session.get("/v1/models/finetuned/nothing") as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("kind", list(leaves().values()), ids=list(leaves()))
async def test_every_error_can_be_said(kind: type[errors.GatewayError]) -> None:
    reply = answer(kind("it failed", retry_after=2.0), DIALECT)
    assert reply.headers["X-Gateway-Error"] == kind.code
    kinds = {400: "invalid_request_error", 429: "rate_limit_error", 503: "server_error"}
    assert kinds.get(reply.status, "") in (reply.text or "")
    assert ("Retry-After" in reply.headers) == (reply.status in {429, 503})
