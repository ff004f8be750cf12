"""Other people's clients, unchanged, from their registries' packages, against a gateway that runs.

Each gets the vectors that sentence-transformers makes, and what is refused is an exception of its own library.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from tests.clients.asked import Step, Target, outcomes
from tests.clients.conftest import MODEL, MOST_INPUTS, RERANKER, TEXTS
from tests.clients.environments import ENVIRONMENTS, can_be_made
from tests.running import RunningGateway

pytestmark = [pytest.mark.clients, pytest.mark.asyncio(loop_scope="session")]
MISSING: Final = "sentence-transformers/all-MiniLM-L7-v2"
LEAST_COSINE: Final = 0.99999
MANY: Final = [f"text {number}" for number in range(MOST_INPUTS + 1)]


class Raised(NamedTuple):
    """An exception by the name that a user imports, its HTTP status, and a part of what it says."""

    name: str
    status: int | None = None
    says: str = ""


class Refusals(NamedTuple):
    unknown: Raised
    oversized: Raised
    full: Raised
    stranger: Raised


class Client(NamedTuple):
    environment: str
    program: str
    way: str
    refusals: Refusals


OPENAI: Final = Refusals(
    unknown=Raised("openai.NotFoundError", 404, MISSING),
    oversized=Raised("openai.BadRequestError", 400, str(MOST_INPUTS)),
    full=Raised("openai.RateLimitError", 429, "wait on the device"),
    stranger=Raised("openai.AuthenticationError", 401),
)
OPENAI_NODE: Final = Refusals(*(each._replace(name=each.name.removeprefix("openai.")) for each in OPENAI))
HUB: Final = Refusals(
    unknown=Raised("huggingface_hub.HfHubHTTPError", 404, MISSING),
    oversized=Raised("huggingface_hub.HfHubHTTPError", 413, str(MOST_INPUTS)),
    full=Raised("huggingface_hub.HfHubHTTPError", 429, "wait on the device"),
    stranger=Raised("huggingface_hub.HfHubHTTPError", 401),
)
OLLAMA: Final = Refusals(
    unknown=Raised("ollama.ResponseError", 404, "try pulling it first"),
    oversized=Raised("ollama.ResponseError", 400, str(MOST_INPUTS)),
    full=Raised("ollama.ResponseError", 503, "wait on the device"),
    stranger=Raised("ollama.ResponseError", 401),
)
OLLAMA_JS: Final = Refusals(*(each._replace(name="ResponseError") for each in OLLAMA))
# these two look at no status, and fail over a body that is not the list that they expect
LLAMA_INDEX: Final = Refusals(*[Raised("pydantic_core.ValidationError", None, "should be a valid list")] * 4)
CHROMA: Final = Refusals(*[Raised("builtins.ValueError", None, "could not convert string to float")] * 4)

CLIENTS: Final = [
    Client("openai-python", "openai_python", "embeddings", OPENAI),
    Client("openai-python", "openai_python", "floats", OPENAI),
    Client("openai-node", "openai_node", "embeddings", OPENAI_NODE),
    Client("huggingface-hub", "inference_client", "feature_extraction", HUB),
    Client("huggingface-hub", "inference_client", "base_url", HUB),
    Client("llama-index", "llama_index_tei", "embeddings", LLAMA_INDEX),
    Client("langchain", "langchain_embeddings", "unchecked", OPENAI),
    Client("langchain", "langchain_embeddings", "checked", OPENAI),
    Client("chroma", "chroma_functions", "tei", CHROMA),
    Client("chroma", "chroma_functions", "ollama", OLLAMA),
    Client("haystack", "haystack_openai", "embeddings", OPENAI),
    Client("ollama-python", "ollama_python", "embed", OLLAMA),
    Client("ollama-js", "ollama_js", "embed", OLLAMA_JS),
]
NAMES: Final = [f"{client.environment}-{client.way}" for client in CLIENTS]
every_client: Final = pytest.mark.parametrize("client", CLIENTS, ids=NAMES)


class Asked:
    """What came of all that a client was told to ask. Each is started once, when the first test wants to know."""

    def __init__(self, target: Target, full: Target, tokenizer: str, home: Path) -> None:
        self._target = target
        self._tokenizer = tokenizer
        self._home = home
        self._runs: dict[Client, asyncio.Task[dict[str, dict[str, Any]]]] = {}
        self._steps = {
            "one": (target, TEXTS[:1]),
            "many": (target, TEXTS),
            "unknown": (target._replace(model=MISSING), TEXTS[:2]),
            "oversized": (target, MANY),
            "full": (full, TEXTS[:2]),
            "stranger": (target._replace(key=f"{target.key}x"), TEXTS[:2]),
        }

    async def of(self, client: Client, step: str) -> dict[str, Any]:
        """A program that fails, or hangs, does so once for all its tests."""
        if client not in self._runs:
            self._runs[client] = asyncio.create_task(self._run(client))
        return (await self._runs[client])[step]

    async def _run(self, client: Client) -> dict[str, dict[str, Any]]:
        steps = [Step(client.way, target, self._given(client, texts)) for target, texts in self._steps.values()]
        found = await self.program(client.environment, client.program, steps)
        return dict(zip(self._steps, found, strict=True))

    async def returned(self, environment: str, program: str, way: str, given: Any = None, **target: str) -> Any:
        """Of one thing that only this client does. A refusal fails the test."""
        step = Step(way, self._target._replace(**target), given)
        (outcome,) = await self.program(environment, program, [step])
        return returned(outcome)

    async def program(self, environment: str, program: str, steps: list[Step]) -> list[dict[str, Any]]:
        if not can_be_made(ENVIRONMENTS[environment]):
            pytest.skip("needs node and npm")
        return await outcomes(environment, program, steps, self._home)

    def _given(self, client: Client, texts: list[str]) -> Any:
        """langchain counts tokens with a tokenizer that is on its own disk."""
        return {"texts": texts, "tokenizer": self._tokenizer} if client.way == "checked" else texts


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def asked(target: Target, full: RunningGateway, minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(target, Target(full.url, MODEL, target.key), minilm, tmp_path_factory.mktemp("home"))


def cosines(found: Any, expected: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    rows, wanted = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert rows.shape == wanted.shape
    return np.sum(rows * wanted, axis=1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(wanted, axis=1)


def returned(outcome: dict[str, Any]) -> Any:
    assert "returned" in outcome, outcome
    return outcome["returned"]


def check(outcome: dict[str, Any], raised: Raised) -> None:
    assert "raised" in outcome, f"no exception, but {str(outcome)[:200]}"
    assert raised.name in outcome["raised"], outcome
    assert outcome["status"] == raised.status, outcome
    assert raised.says in outcome["says"], outcome


@every_client
async def test_one_text_has_the_vector_of_sentence_transformers(client: Client, asked: Asked, expected: Any) -> None:
    assert cosines(returned(await asked.of(client, "one")), expected[:1]).min() >= LEAST_COSINE


@every_client
async def test_many_texts_have_theirs_in_their_order(client: Client, asked: Asked, expected: Any) -> None:
    assert cosines(returned(await asked.of(client, "many")), expected).min() >= LEAST_COSINE


@every_client
async def test_an_unknown_model_raises_what_the_library_has_for_it(client: Client, asked: Asked) -> None:
    check(await asked.of(client, "unknown"), client.refusals.unknown)


@every_client
async def test_more_texts_than_a_request_may_have_raise_what_the_library_has_for_it(
    client: Client, asked: Asked
) -> None:
    check(await asked.of(client, "oversized"), client.refusals.oversized)


@every_client
async def test_a_full_queue_raises_what_the_library_has_for_it(client: Client, asked: Asked) -> None:
    check(await asked.of(client, "full"), client.refusals.full)


@every_client
async def test_a_wrong_key_raises_what_the_library_has_for_it(client: Client, asked: Asked) -> None:
    check(await asked.of(client, "stranger"), client.refusals.stranger)


async def test_openai_shortens_vectors_and_counts_tokens(asked: Asked, expected: Any) -> None:
    short = await asked.returned("openai-python", "openai_python", "shortened", TEXTS)
    assert cosines(short, expected[:, :64]).min() >= LEAST_COSINE
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1.0, atol=1e-5)
    usage = await asked.returned("openai-python", "openai_python", "usage", ["x", "x"])
    assert usage == {"model": MODEL, "object": "list", "prompt_tokens": 6, "total_tokens": 6}


async def test_openai_may_send_token_ids(asked: Asked, expected: Any, minilm: str) -> None:
    from transformers import AutoTokenizer

    rows = AutoTokenizer.from_pretrained(minilm)(TEXTS[:3], add_special_tokens=False)["input_ids"]
    vectors = await asked.returned("openai-python", "openai_python", "ids", rows)
    assert cosines(vectors, expected[:3]).min() >= LEAST_COSINE


async def test_openai_reads_code_type_and_param_of_an_error(asked: Asked) -> None:
    read = await asked.returned("openai-python", "openai_python", "code", ["x"], model=MISSING)
    assert read == {"code": "model_not_found", "type": "invalid_request_error", "param": "model"}


async def test_openai_raises_its_rate_limit_for_a_key_that_has_used_up_its_tokens(
    asked: Asked, target: Target, keys: dict[str, str]
) -> None:
    poor = Step("embeddings", target._replace(key=keys["poor"]), TEXTS[:1])
    first, second = await asked.program("openai-python", "openai_python", [poor, poor])
    assert "returned" in first
    check(second, Raised("openai.RateLimitError", 429))


async def test_openai_lists_the_model(asked: Asked) -> None:
    assert MODEL in await asked.returned("openai-python", "openai_python", "models")
    assert await asked.returned("openai-python", "openai_python", "model") == MODEL
    assert MODEL in await asked.returned("openai-node", "openai_node", "models")


async def test_hub_compares_sentences(asked: Asked, expected: Any) -> None:
    scores = await asked.returned("huggingface-hub", "inference_client", "similarity", TEXTS)
    np.testing.assert_allclose(scores, expected[1:] @ expected[0], atol=1e-4)


async def test_a_text_that_is_too_long_and_may_not_be_cut_raises_what_the_library_has_for_it(
    asked: Asked, target: Target
) -> None:
    step = Step("uncut", target, TEXTS[3:4])
    (hub,) = await asked.program("huggingface-hub", "inference_client", [step])
    check(hub, Raised("huggingface_hub.HfHubHTTPError", 422, "tokens"))
    (ollama,) = await asked.program("ollama-python", "ollama_python", [step])
    check(ollama, Raised("ollama.ResponseError", 400, "tokens"))


async def test_chroma_finds_the_nearest_text(asked: Asked, expected: Any) -> None:
    found = await asked.returned("chroma", "chroma_functions", "collection", TEXTS)
    assert found == [TEXTS[1 + int(np.argmax(expected[1:] @ expected[0]))]]


async def test_ollama_lists_shows_and_unloads_the_model(asked: Asked) -> None:
    assert f"{MODEL}:latest" in await asked.returned("ollama-python", "ollama_python", "listed")
    assert f"{MODEL}:latest" in await asked.returned("ollama-js", "ollama_js", "listed")
    shown = await asked.returned("ollama-python", "ollama_python", "shown")
    assert shown == {"capabilities": ["embedding"], "family": "bert"}
    kept = await asked.returned("ollama-python", "ollama_python", "kept", TEXTS[:1])
    assert kept == {"before": [f"{MODEL}:latest"], "after": []}


async def test_ollama_takes_a_tag_shortens_vectors_and_has_its_older_call(asked: Asked, expected: Any) -> None:
    short = await asked.returned("ollama-python", "ollama_python", "shortened", TEXTS, model=f"{MODEL}:latest")
    assert cosines(short, expected[:, :64]).min() >= LEAST_COSINE
    older = await asked.returned("ollama-python", "ollama_python", "older", TEXTS[:1])
    assert cosines(older, expected[:1]).min() >= LEAST_COSINE


async def test_triton_loads_and_unloads_a_model_of_the_repository(asked: Asked, target: Target) -> None:
    ways = ("health", "load", "index", "unload", "index")
    program = ("triton", "triton_repository")
    health, load, loaded, unload, unloaded = await asked.program(*program, [Step(way, target) for way in ways])
    assert health == {"returned": [True, True]}
    assert load == {"returned": True}
    assert {"name": MODEL, "version": "1", "state": "READY", "reason": ""} in loaded["returned"]
    assert unload == {"returned": None}
    (row,) = (row for row in unloaded["returned"] if row["name"] == MODEL)
    assert row["state"] == "UNAVAILABLE"
    assert row["reason"]


async def test_triton_raises_its_own_exception_for_an_unknown_model_and_a_wrong_key(
    asked: Asked, target: Target
) -> None:
    name = "tritonclient.InferenceServerException"
    unknown = Step("load", target._replace(model=MISSING))
    stranger = Step("load", target._replace(key=f"{target.key}x"))
    outcomes = await asked.program("triton", "triton_repository", [unknown, stranger])
    check(outcomes[0], Raised(name, 404, MISSING))
    check(outcomes[1], Raised(name, 401))


async def test_cohere_reranks_as_sentence_transformers_does(asked: Asked, volume: Path) -> None:
    from sentence_transformers import CrossEncoder

    query, *documents = TEXTS
    pairs = [(query, document) for document in documents]
    scores = CrossEncoder(str(volume / RERANKER), device="cpu").predict(pairs)
    order = np.argsort(-scores)
    results = await asked.returned("cohere", "cohere_rerank", "rerank", TEXTS, model=RERANKER)
    assert [index for index, _ in results] == order.tolist()
    np.testing.assert_allclose([score for _, score in results], scores[order], atol=1e-4)
    older = await asked.returned("cohere", "cohere_rerank", "older", TEXTS, model=RERANKER)
    assert [(index, text) for index, _, text in older] == [(index, documents[index]) for index in order[:2]]


async def test_cohere_raises_its_own_exceptions(asked: Asked, target: Target, full: RunningGateway) -> None:
    here = target._replace(model=RERANKER)
    steps = [
        Step("rerank", here._replace(model=MISSING), TEXTS),
        Step("rerank", here, [TEXTS[0], *MANY]),
        Step("rerank", here._replace(url=full.url), TEXTS),
        Step("rerank", here._replace(key=f"{target.key}x"), TEXTS),
        Step("rerank", target, TEXTS),
    ]
    unknown, oversized, overloaded, stranger, encoder = await asked.program("cohere", "cohere_rerank", steps)
    check(unknown, Raised("cohere.NotFoundError", 404, MISSING))
    check(oversized, Raised("cohere.ApiError", 413, str(MOST_INPUTS)))
    check(overloaded, Raised("cohere.TooManyRequestsError", 429, "wait on the device"))
    check(stranger, Raised("cohere.UnauthorizedError", 401))
    check(encoder, Raised("cohere.BadRequestError", 400, "encoder"))
