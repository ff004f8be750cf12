"""Ollama over HTTP: embeddings, listings and `keep_alive`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pytest

from gateway import __version__
from gateway.errors import InvalidBody
from gateway.web.ollama import _count, leaves
from tests.e2e.clients import TEXTS
from tests.protocols.closeness import close
from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")
DETAILS = {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"}


async def ask(gateway: RunningGateway, path: str, **body: Any) -> tuple[int, Any]:
    async with gateway.session.post(path, json=body) as reply:
        return reply.status, await reply.json()


async def get(gateway: RunningGateway, path: str) -> Any:
    async with gateway.session.get(path) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


@pytest.mark.parametrize("name", ["finetuned/physics", "finetuned/physics:latest", "physics:latest", "prod/search"])
async def test_the_vectors_are_those_of_the_native_protocol_at_unit_length(gateway: RunningGateway, name: str) -> None:
    async with gateway.session.post("/embed", json={"inputs": TEXTS, "model": "physics", "normalize": True}) as reply:
        expected = await reply.json()
    status, body = await ask(gateway, "/api/embed", model=name, input=TEXTS)
    assert status == 200
    assert body.keys() == {"model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"}
    assert body["model"] == name
    close(body["embeddings"], expected["embeddings"])
    assert body["prompt_eval_count"] == expected["usage"]["tokens"]
    assert body["total_duration"] > body["load_duration"] >= 0


async def test_one_text_is_answered_with_one_row_and_none_with_none(gateway: RunningGateway) -> None:
    _, body = await ask(gateway, "/api/embed", model="physics", input=TEXTS[0], options={"num_ctx": 8}, dimensions=0)
    assert np.array(body["embeddings"]).shape == (1, 32)
    _, body = await ask(gateway, "/api/embed", model="physics", input=TEXTS[0], dimensions=8)
    np.testing.assert_allclose(np.linalg.norm(body["embeddings"], axis=1), 1, atol=1e-6)
    assert np.array(body["embeddings"]).shape == (1, 8)
    for nothing in ({}, {"input": ""}, {"input": []}):
        status, body = await ask(gateway, "/api/embed", model="physics", **nothing)
        assert (status, body["embeddings"]) == (200, [])


async def test_the_older_call_answers_with_the_vector_as_the_model_makes_it(gateway: RunningGateway) -> None:
    expected, _ = await gateway.embed([TEXTS[0]], "finetuned/long")
    status, body = await ask(gateway, "/api/embeddings", model="finetuned/long", prompt=TEXTS[0])
    assert (status, body.keys()) == (200, {"embedding"})
    close(body["embedding"], expected[0])
    assert await ask(gateway, "/api/embeddings", model="finetuned/long") == (200, {"embedding": []})


async def test_models_are_listed_by_names_that_can_be_asked_for(gateway: RunningGateway) -> None:
    models = {model["name"]: model for model in (await get(gateway, "/api/tags"))["models"]}
    assert "finetuned/half:latest" not in models
    found = models["sentence-transformers/all-MiniLM-L6-v2:latest"]
    assert found.keys() == {"name", "model", "modified_at", "size", "digest", "details"}
    assert found["size"] > 80_000_000
    assert datetime.fromisoformat(found["modified_at"]).year > 2020
    assert found["details"].keys() == DETAILS
    assert (found["details"]["family"], found["details"]["parameter_size"]) == ("bert", "22.7M")
    assert models["finetuned/physics:latest"]["details"]["parent_model"] == "acme/base"
    for name in models:
        status, _ = await ask(gateway, "/api/show", model=name)
        assert status == 200


async def test_what_is_loaded_is_told_and_keep_alive_0_unloads_it(gateway: RunningGateway) -> None:
    async def loaded() -> dict[str, Any]:
        return {model["name"]: model for model in (await get(gateway, "/api/ps"))["models"]}

    for zero in (0, 0.0, "0", "0s"):
        await ask(gateway, "/api/embed", model="rooted", input="x", keep_alive="5m")
        found = (await loaded())["rooted:latest"]
        assert found.keys() >= {"name", "model", "size", "digest", "details", "expires_at", "size_vram"}
        assert found["size"] > 0
        assert found["size_vram"] == 0  # this gateway computes on the CPU
        datetime.fromisoformat(found["expires_at"])
        status, body = await ask(gateway, "/api/embed", model="rooted", input="x", keep_alive=zero)
        assert (status, len(body["embeddings"])) == (200, 1)
        assert "rooted:latest" not in await loaded()


async def test_a_model_is_loaded_and_unloaded_by_asking_for_no_text(gateway: RunningGateway) -> None:
    status, body = await ask(gateway, "/api/generate", model="rooted")
    assert (status, body["done"], body["done_reason"]) == (200, True, "load")
    assert (await gateway.models())["huggingface:rooted"]["state"] == "loaded"
    status, body = await ask(gateway, "/api/generate", model="rooted:latest", keep_alive=0)
    assert (status, body["done_reason"]) == (200, "unload")
    assert (await gateway.models())["huggingface:rooted"]["state"] == "ready"
    status, body = await ask(gateway, "/api/generate", model="rooted", prompt="why is the sky blue?")
    assert (status, body) == (400, {"error": '"rooted" does not support generate'})


async def test_a_model_is_shown(gateway: RunningGateway) -> None:
    _, found = await ask(gateway, "/api/show", model="physics")
    assert found["capabilities"] == ["embedding"]
    assert found["model_info"]["bert.embedding_length"] == 32
    assert found["details"].keys() == DETAILS
    assert await ask(gateway, "/api/show", name="physics") == (200, found)
    assert await get(gateway, "/api/version") == {"version": __version__}


async def test_who_looks_before_asking_finds_somebody_at_home(gateway: RunningGateway) -> None:
    async with gateway.session.head("/") as reply:
        assert reply.status == 200
    async with gateway.session.get("/") as reply:
        assert (reply.status, await reply.text()) == (200, "Dropgate is running\n")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/embed", {"model": "nothing", "input": "x"}, 404),
        ("/api/embed", {"input": "x"}, 400),
        ("/api/embed", {"model": "physics", "input": [1]}, 400),
        ("/api/embed", {"model": "physics", "input": "x", "dimensions": 99}, 400),
        ("/api/embed", {"model": "physics", "input": "beam " * 500, "truncate": False}, 400),
        ("/api/embed", {"model": "physics", "input": ["x"] * 257}, 400),
        ("/api/embed", {"model": "physics", "input": "x", "keep_alive": "soon"}, 400),
        ("/api/embed", {"model": "finetuned/half", "input": "x"}, 409),
        ("/api/show", {}, 400),
        ("/api/nothing", {}, 404),
    ],
)
async def test_what_is_wrong_is_one_text(gateway: RunningGateway, path: str, body: Any, status: int) -> None:
    found, error = await ask(gateway, path, **body)
    assert (found, error.keys()) == (status, {"error"})
    assert isinstance(error["error"], str)


async def test_an_unknown_model_is_said_as_its_clients_know_it(gateway: RunningGateway) -> None:
    _, error = await ask(gateway, "/api/embed", model="nothing", input="x")
    assert "not found, try pulling it first" in error["error"]


@pytest.mark.parametrize("given", [0, 0.0, "0", "0s", "0h0m", "-0.0s"])
async def test_nothing_at_all_unloads(given: Any) -> None:
    assert leaves(given)


@pytest.mark.parametrize("given", [None, -1, 300, 0.5, "5m", "-1m", "1h30m", "1.5h", "100ms", "10s"])
async def test_any_other_wishleaves_the_model(given: Any) -> None:
    assert not leaves(given)


@pytest.mark.parametrize("given", ["", "soon", "5 m", "5x", "m", "30"])
async def test_what_is_no_duration_is_refused(given: str) -> None:
    with pytest.raises(InvalidBody):
        leaves(given)


async def test_sizes_are_written_as_ollama_writes_them() -> None:
    assert [_count(number) for number in (999, 1000, 22_713_216, 7_241_732_096)] == ["999", "1.0K", "22.7M", "7.2B"]


async def test_what_is_not_there_is_not_unloaded(gateway: RunningGateway) -> None:
    status, body = await ask(gateway, "/api/generate", model="nothing", keep_alive=0)
    assert (status, body.keys()) == (404, {"error"})
