"""Reranking over HTTP, in Cohere's shape and in that of text-embeddings-inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")
QUERY = "beam ring laser"
TEXTS = ["the beam of the ring", "a laser", "light source vacuum orbit cavity lattice tune", "power supply trip"]
JUDGE = "finetuned/judge"


@pytest.fixture(scope="session")
def expected(root: Path) -> np.ndarray[Any, Any]:
    """What sentence-transformers scores, in the order of the texts."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(root / JUDGE), device="cpu")
    return np.asarray(model.predict([(QUERY, text) for text in TEXTS]))


async def ask(gateway: RunningGateway, path: str, **body: Any) -> tuple[int, Any]:
    async with gateway.session.post(path, json=body) as reply:
        return reply.status, await reply.json()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", f"/models/{JUDGE}/rerank"])
async def test_the_best_document_comes_first(gateway: RunningGateway, expected: Any, path: str) -> None:
    status, body = await ask(gateway, path, model=JUDGE, query=QUERY, documents=TEXTS)
    assert status == 200, body
    assert body.keys() == {"id", "object", "model", "results", "usage", "meta"}
    order = [int(index) for index in np.argsort(-expected)]
    assert [result["index"] for result in body["results"]] == order
    np.testing.assert_allclose([result["relevance_score"] for result in body["results"]], expected[order], atol=1e-5)
    assert all(result.keys() == {"index", "relevance_score"} for result in body["results"])
    assert body["model"] == JUDGE
    assert body["meta"]["tokens"]["input_tokens"] == body["usage"]["total_tokens"] > 20
    _, again = await ask(gateway, path, model=JUDGE, query=QUERY, documents=TEXTS)
    assert again["id"] != body["id"]


async def test_so_many_of_the_best_with_their_texts(gateway: RunningGateway) -> None:
    _, whole = await ask(gateway, "/v2/rerank", model=JUDGE, query=QUERY, documents=TEXTS)
    documents = [TEXTS[0], {"text": TEXTS[1], "id": "other"}, *TEXTS[2:]]
    status, body = await ask(
        gateway, "/v1/rerank", model=JUDGE, query=QUERY, documents=documents, top_n=2, return_documents=True
    )
    assert status == 200
    assert [{**result, "document": None} for result in body["results"]] == [
        {**result, "document": None} for result in whole["results"][:2]
    ]
    assert [result["document"]["text"] for result in body["results"]] == [
        TEXTS[result["index"]] for result in body["results"]
    ]
    _, body = await ask(gateway, "/rerank", model=JUDGE, query=QUERY, documents=TEXTS, top_n=99)
    assert len(body["results"]) == len(TEXTS)


async def test_a_document_is_cut_to_the_tokens_that_it_may_have(gateway: RunningGateway) -> None:
    long, short = "the beam of the ring", "the beam"
    _, cut = await ask(
        gateway, "/rerank", model=JUDGE, query=QUERY, documents=[long], max_tokens_per_doc=2, return_documents=True
    )
    _, meant = await ask(gateway, "/rerank", model=JUDGE, query=QUERY, documents=[short])
    _, whole = await ask(gateway, "/rerank", model=JUDGE, query=QUERY, documents=[long], max_tokens_per_doc=5)
    assert cut["results"][0]["relevance_score"] == meant["results"][0]["relevance_score"]
    assert cut["results"][0]["document"] == {"text": long}
    assert whole["results"][0]["relevance_score"] != meant["results"][0]["relevance_score"]


async def test_text_embeddings_inference_reranks_at_its_base_url_too(gateway: RunningGateway, expected: Any) -> None:
    order = [int(index) for index in np.argsort(-expected)]
    for path in ("/rerank", ""):
        status, ranks = await ask(gateway, f"/tei/{JUDGE}{path}", query=QUERY, texts=TEXTS)
        assert status == 200, ranks
        assert [rank["index"] for rank in ranks] == order
        np.testing.assert_allclose([rank["score"] for rank in ranks], expected[order], atol=1e-5)
        assert all(rank.keys() == {"index", "score"} for rank in ranks)
    _, raw = await ask(gateway, f"/tei/{JUDGE}/rerank", query=QUERY, texts=TEXTS, raw_scores=True, return_text=True)
    assert [rank["index"] for rank in raw] == order
    scores = np.array([rank["score"] for rank in raw])
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), expected[order], atol=1e-5)
    assert [rank["text"] for rank in raw] == [TEXTS[index] for index in order]


async def test_the_headers_and_the_info_are_those_of_a_reranker(gateway: RunningGateway) -> None:
    async with gateway.session.post(f"/tei/{JUDGE}/rerank", json={"query": "a", "texts": ["bc", "d"]}) as reply:
        assert reply.headers["x-compute-characters"] == "4"
        assert reply.headers["X-Model"] == f"huggingface:{JUDGE}"
    async with gateway.session.get(f"/tei/{JUDGE}/info") as reply:
        assert (await reply.json())["model_type"].keys() == {"reranker"}
    status, error = await ask(gateway, f"/tei/{JUDGE}/embed", inputs="x")
    assert (status, error["error_type"]) == (424, "Backend")
    assert "a reranker" in error["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"query": "x", "documents": ["y"], "model": "nothing"}, 404),
        ({"query": "x", "documents": ["y"], "model": "finetuned/physics"}, 400),
        ({"query": "x", "documents": [], "model": JUDGE}, 400),
        ({"query": "x", "documents": [3], "model": JUDGE}, 400),
        ({"query": "x", "documents": [{"title": "y"}], "model": JUDGE}, 400),
        ({"query": "x", "documents": ["y"], "model": JUDGE, "top_n": 0}, 400),
        ({"documents": ["y"], "model": JUDGE}, 400),
        ({"query": "x", "documents": ["y"] * 65, "model": JUDGE}, 413),
    ],
)
async def test_what_is_wrong_is_one_text(gateway: RunningGateway, body: Any, status: int) -> None:
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        found, error = await ask(gateway, path, **body)
        assert (found, error.keys()) == (status, {"message"})
