"""Reranking, in the shape of Cohere (https://docs.cohere.com/reference/rerank) that others have taken over: a query,
documents, and the best of them first."""

from __future__ import annotations

import re
import uuid
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from gateway import errors
from gateway.errors import EmptyInput
from gateway.requests import Reranking
from gateway.web import answers, asking
from gateway.web.body import decode, read
from gateway.web.contract import says
from gateway.web.errors import Dialect
from gateway.web.native import answer

routes: Final = web.RouteTableDef()
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Document(msgspec.Struct):
    text: str


class RerankBody(msgspec.Struct):
    """`POST /v2/rerank`. `truncate` and `raw_scores` are not Cohere's but the gateway's own."""

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: Positive | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Positive | None = None
    truncate: bool | None = None
    raw_scores: bool | None = None


EXAMPLE: Final = {"query": "how is a beam stored?", "documents": ["the ring holds the beam", "a laser"], "top_n": 1}
_body: Final = msgspec.json.Decoder(RerankBody)


@routes.post("/rerank")
@routes.post("/v1/rerank")
@routes.post("/v2/rerank")
@routes.post("/models/{model:.+}/rerank")
@says(body=RerankBody, example=EXAMPLE, answer=answers.Reranked)
async def rerank(request: web.Request) -> web.Response:
    """How well each document answers the query, the best first."""
    body = decode(_body, await read(request))
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    if not texts:
        raise EmptyInput("`documents` is an empty list")
    reranking = await asking.rerank(
        request,
        body.query,
        await _cut(request, body, texts),
        model=body.model,
        truncate=body.truncate is not False,
        raw_scores=bool(body.raw_scores),
    )
    results = [_result(reranking, index, texts if body.return_documents else None) for index in best(reranking)]
    response = answer(
        {
            "id": str(uuid.uuid4()),
            "object": "rerank",
            "model": reranking.model.path,
            "results": results[: body.top_n],
            "usage": {"prompt_tokens": reranking.tokens, "total_tokens": reranking.tokens},
            "meta": {
                "api_version": {"version": "1" if request.path.startswith("/v1/") else "2"},
                "tokens": {"input_tokens": reranking.tokens},
            },
        }
    )
    asking.name(response, reranking)
    return response


async def _cut(request: web.Request, body: RerankBody, texts: list[str]) -> list[str]:
    """The documents, each with so many tokens at most."""
    most = body.max_tokens_per_doc
    if most is None:
        return texts
    found = await asking.tokenize(request, texts, model=body.model, add_special_tokens=False, prompt="")
    return [
        text[: tokens[most - 1].stop] if len(tokens) > most else text
        for text, tokens in zip(texts, found.texts, strict=True)
    ]


def best(reranking: Reranking) -> list[int]:
    """Indexes of the texts, the highest score first; of equal ones the first."""
    return sorted(range(len(reranking.scores)), key=lambda index: -reranking.scores[index])


def _result(reranking: Reranking, index: int, texts: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"index": index, "relevance_score": reranking.scores[index]}
    return found if texts is None else found | {"document": {"text": texts[index]}}


# Errors: one text.


def refusal(error: errors.GatewayError, status: int) -> dict[str, Any]:
    return {"message": error.message}


DIALECT: Final = Dialect("Cohere", re.compile(r"(?:/v[12])?/rerank/?$"), refusal, answers.ErrorMessage)
