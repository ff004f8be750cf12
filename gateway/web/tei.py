"""The protocol of text-embeddings-inference (https://huggingface.github.io/text-embeddings-inference/).

Its clients know one model: here it is in the base URL, `/tei/<model>`, in any spelling. Answers are bare lists.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

import msgspec
import numpy as np
import orjson
from aiohttp import web

from gateway import __version__, errors
from gateway.errors import EmptyInput, Starting, WrongKind
from gateway.host.wire import Token
from gateway.model import Generation, Pooling
from gateway.requests import Embedding, Reranking, TokenVectors
from gateway.web import answers, asking, openai, vectors
from gateway.web import tei_bodies as bodies
from gateway.web.asking import SERVICE
from gateway.web.body import Input, Inputs, decode, inputs, read
from gateway.web.contract import says
from gateway.web.errors import Dialect
from gateway.web.native import answer
from gateway.web.rerank import best
from gateway.web.tei_bodies import side

routes: Final = web.RouteTableDef()
ROWS: Final = vectors.Frame(b"[", b"]")
DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
POOLINGS: Final = {"lasttoken": "last_token"}  # where the name is another


TEXTS: Final = {"inputs": ["how is a beam stored?", "the ring holds the beam"]}
SENTENCES: Final = {"inputs": {"source_sentence": "the beam", "sentences": ["a laser", "the ring"]}}
QUERY: Final = {"query": "how is a beam stored?", "texts": ["the ring holds the beam", "a laser"]}
_embed: Final = msgspec.json.Decoder(bodies.TeiEmbedBody)
_embed_all: Final = msgspec.json.Decoder(bodies.TeiEmbedAllBody)
_similarity: Final = msgspec.json.Decoder(bodies.TeiSimilarityBody)
_rerank: Final = msgspec.json.Decoder(bodies.TeiRerankBody)
_tokenize: Final = msgspec.json.Decoder(bodies.TeiTokenizeBody)
_decode: Final = msgspec.json.Decoder(bodies.TeiDecodeBody)


@routes.post("/tei/{model:.+}/embed")
@says(body=bodies.TeiEmbedBody, example=TEXTS, answer=answers.Rows)
async def embed(request: web.Request) -> web.StreamResponse:
    """Texts or token ids to vectors: a list of rows, also for one text."""
    began = time.monotonic()
    body = decode(_embed, await read(request))
    texts = _some(inputs(body.inputs, "inputs"))
    embedding = await asking.embed(
        request,
        texts,
        model=None,
        normalize=body.normalize,
        truncate=body.truncate is not False,
        truncation_side=side(body.truncation_direction),
        prompt_name=body.prompt_name,
        dimensions=body.dimensions,
    )
    response = vectors.framed(embedding, ROWS)
    _measure(request, response, embedding, texts, began)
    return response


@routes.post("/tei/{model:.+}/embed_all")
@says(body=bodies.TeiEmbedAllBody, example=TEXTS, answer=list[answers.Rows])
async def embed_all(request: web.Request) -> web.StreamResponse:
    """A vector for each token, before the pooling: a list of rows for each text."""
    began = time.monotonic()
    body = decode(_embed_all, await read(request))
    texts = _some(inputs(body.inputs, "inputs"))
    tokens = await asking.embed_tokens(
        request,
        texts,
        model=None,
        truncate=body.truncate is not False,
        truncation_side=side(body.truncation_direction),
        prompt_name=body.prompt_name,
    )
    response = vectors.Pieces(vectors.nested(tokens))
    _measure(request, response, tokens, texts, began)
    return response


@routes.post("/tei/{model:.+}/similarity")
@says(body=bodies.TeiSimilarityBody, example=SENTENCES, answer=list[float])
async def similarity(request: web.Request) -> web.StreamResponse:
    """The cosine between one text and each of others."""
    began = time.monotonic()
    body = decode(_similarity, await read(request))
    options = body.parameters or bodies.TeiParameters()
    texts: list[Input] = [body.inputs.source_sentence, *_some(body.inputs.sentences)]
    embedding = await asking.embed(
        request,
        texts,
        model=None,
        normalize=True,
        truncate=options.truncate is not False,
        truncation_side=side(options.truncation_direction),
        prompt_name=options.prompt_name,
    )
    rows = np.frombuffer(embedding.data, "<f4").reshape(embedding.rows, embedding.dim)
    response = answer(np.clip(rows[1:] @ rows[0], -1.0, 1.0).tolist())
    _measure(request, response, embedding, texts, began)
    return response


@routes.post("/tei/{model:.+}/rerank")
@says(body=bodies.TeiRerankBody, example=QUERY, answer=list[answers.TeiRank])
async def rerank(request: web.Request) -> web.StreamResponse:
    """How well each text answers the query, the best first."""
    began = time.monotonic()
    body = decode(_rerank, await read(request))
    reranking = await asking.rerank(
        request,
        body.query,
        _some(body.texts),
        model=None,
        truncate=body.truncate is not False,
        truncation_side=side(body.truncation_direction),
        raw_scores=body.raw_scores,
    )
    ranks: list[dict[str, Any]] = [{"index": index, "score": reranking.scores[index]} for index in best(reranking)]
    if body.return_text:
        ranks = [rank | {"text": body.texts[rank["index"]]} for rank in ranks]
    response = answer(ranks)
    _measure(request, response, reranking, [body.query, *body.texts], began)
    return response


@routes.post("/tei/{model:.+}/tokenize")
@says(body=bodies.TeiTokenizeBody, example=TEXTS, answer=list[list[answers.TeiToken]])
async def tokenize(request: web.Request) -> web.StreamResponse:
    """Texts to their tokens, and where these lie in them."""
    body = decode(_tokenize, await read(request))
    texts = _some([body.inputs] if isinstance(body.inputs, str) else body.inputs)
    tokenization = await asking.tokenize(
        request, texts, model=None, add_special_tokens=body.add_special_tokens, prompt_name=body.prompt_name
    )
    response = vectors.Pieces(_listed(tokenization.texts))
    asking.name(response, tokenization)
    return response


def _listed(texts: list[list[Token]]) -> Iterator[bytes]:
    """As JSON, one text at a time: there may be a million tokens."""
    yield b"["
    for number, tokens in enumerate(texts):
        yield (b"," if number else b"") + orjson.dumps([msgspec.structs.asdict(token) for token in tokens])
    yield b"]"


@routes.post("/tei/{model:.+}/decode")
@says(body=bodies.TeiDecodeBody, example={"ids": [[101, 102]]}, answer=list[str])
async def detokenize(request: web.Request) -> web.StreamResponse:
    """Token ids to texts."""
    body = decode(_decode, await read(request))
    ids = _some(inputs(cast(Inputs, body.ids), "ids"))  # numbers alone, or lists of them
    decoding = await asking.decode(request, ids, model=None, skip_special_tokens=body.skip_special_tokens)
    response = answer(decoding.texts)
    asking.name(response, decoding)
    return response


@routes.post("/tei/{model:.+}/predict")
@routes.post("/tei/{model:.+}/embed_sparse")
async def neither(request: web.Request) -> web.StreamResponse:
    """Refused, as text-embeddings-inference does for a model that cannot: classifiers and SPLADE are not served."""
    model, generation = request[SERVICE].live(request.match_info["model"])
    what = "a classifier" if request.path.endswith("/predict") else "a SPLADE model"
    raise WrongKind(f"{model.path} is not {what}: its kind is {generation.manifest.kind}", model=str(model))


@routes.post("/tei/{model:.+}/embeddings")
@routes.post("/tei/{model:.+}/v1/embeddings")  # the lower one is matched first
@says(body=openai.EmbeddingsBody, example=openai.EXAMPLE, answer=answers.OpenAIEmbeddings)
async def embeddings(request: web.Request) -> web.StreamResponse:
    """OpenAI's embeddings, under the base URL of one model: a model in the body does not count."""
    return await openai.embeddings(request)


@routes.get("/tei/{model:.+}/info")
@says(answer=answers.TeiInfo)
async def info(request: web.Request) -> web.Response:
    """What the model is, and the limits on a request."""
    service = request[SERVICE]
    model, generation = service.live(request.match_info["model"])
    settings = service.settings
    shown = service.catalog.show(model)
    return answer(
        {
            "model_id": model.path,
            "model_sha": generation.short,
            "model_dtype": shown["dtype"] or DTYPES.get(generation.manifest.stored_dtype, "float32"),
            "served_model_name": model.path,
            "model_type": _kind(generation),
            "max_concurrent_requests": None,  # queues are bounded by tokens, and answer 429
            "max_input_length": generation.manifest.max_tokens,
            "max_batch_tokens": settings.max_batch_tokens,
            "max_batch_requests": settings.max_batch_texts or None,
            "max_client_batch_size": settings.max_inputs,
            "auto_truncate": True,
            "tokenization_workers": settings.tokenizer_threads or None,
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
    )


@routes.get("/tei/{model:.+}/health")
@routes.get("/tei/{model:.+}/ping")
@says(answer=None)
async def health(request: web.Request) -> web.Response:
    """200 without a body when a request for the model would be served."""
    service = request[SERVICE]
    service.live(request.match_info["model"])
    if not service.ready:
        raise Starting("the gateway is not ready; /readyz says why", retry_after=1.0)
    return web.Response()


@routes.post("/tei/{model:.+}")
@routes.post("/tei/{model:.+}/invocations")
@says(body=bodies.TeiEmbedBody, example=TEXTS, answer=list[Any])
async def whatever(request: web.Request) -> web.StreamResponse:
    """What the model is made for, at the base URL itself: an encoder embeds, a reranker reranks."""
    _, generation = request[SERVICE].live(request.match_info["model"])
    return await (rerank(request) if generation.manifest.kind == "reranker" else embed(request))


def _some(texts: list[Any]) -> list[Any]:
    """At least one. Raises EmptyInput."""
    if not texts:
        raise EmptyInput("`inputs` cannot be empty")
    return texts


def _kind(generation: Generation) -> dict[str, Any]:
    """How its clients know what a model is made for."""
    if generation.manifest.kind == "reranker":
        return {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    modes = next((stage.modes for stage in generation.manifest.stages if isinstance(stage, Pooling)), ())
    return {"embedding": {"pooling": "+".join(POOLINGS.get(mode, mode) for mode in modes)}}


def _measure(
    request: web.Request,
    response: web.StreamResponse,
    done: Embedding | TokenVectors | Reranking,
    texts: Sequence[Input],
    began: float,
) -> None:
    """Its headers, times in whole milliseconds. What is neither waiting nor computing counts as tokenizing."""
    asking.name(response, done)
    total, waiting = time.monotonic() - began, done.load_seconds + done.queue_seconds
    times = {
        "compute-time": total,
        "total-time": total,
        "tokenization-time": max(0.0, total - waiting - done.compute_seconds),
        "queue-time": waiting,
        "inference-time": done.compute_seconds,
    }
    response.headers.update({f"x-{name}": str(round(1000 * seconds)) for name, seconds in times.items()})
    on_cpu = all("cpu" in each.device for each in request[SERVICE].engine.devices())
    response.headers["x-compute-type"] = "cpu" if on_cpu else "gpu+optimized"
    response.headers["x-compute-characters"] = str(sum(map(len, texts)))
    response.headers["x-compute-tokens"] = str(done.tokens)


# Errors, in its words: `error_type` is one of Unhealthy, Backend, Overloaded, Validation, Tokenizer and Empty.

STATUSES: Final[dict[type[errors.GatewayError], int]] = {
    errors.InvalidRequest: 422,
    errors.InvalidJson: 400,
    errors.InvalidModelId: 400,
    errors.EmptyInput: 400,
    errors.InputTooLong: 422,
    errors.WrongKind: 424,
    errors.NotServable: 424,
    errors.LoadFailed: 424,
    errors.HostFailed: 424,
}
TYPES: Final = {429: "Overloaded", 503: "Unhealthy"}


def refusal(error: errors.GatewayError, status: int) -> dict[str, Any]:
    return {"error": error.message, "error_type": _type(error, status)}


def _type(error: errors.GatewayError, status: int) -> str:
    if isinstance(error, EmptyInput):
        return "Empty"
    return TYPES.get(status, "Backend" if status == 424 or status >= 500 else "Validation")


def openai_refusal(error: errors.GatewayError, status: int) -> dict[str, Any]:
    """Under `v1/`, where it is not quite OpenAI's."""
    return {"message": error.message, "code": status, "type": _type(error, status)}


DIALECT: Final = Dialect("TEI", re.compile(r"/tei(?:/|$)"), refusal, answers.TeiFailed, STATUSES)
OPENAI_DIALECT: Final = Dialect(
    "TEIEmbeddings", re.compile(r"/tei/.+/embeddings/?$"), openai_refusal, answers.TeiOpenAIFailed, STATUSES
)
