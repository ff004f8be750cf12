"""OpenAI's protocol (https://platform.openai.com/docs/api-reference/embeddings): embeddings and the listing of models.

Ids are without the prefix, which its clients do not know.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec
import orjson
from aiohttp import web

from gateway import errors
from gateway.errors import EmptyInput
from gateway.host.wire import Side
from gateway.model import PREFIX
from gateway.web import answers, asking, vectors
from gateway.web.asking import SERVICE
from gateway.web.body import Input, Inputs, Int64, decode, inputs, read
from gateway.web.contract import says
from gateway.web.errors import Dialect
from gateway.web.native import answer

routes: Final = web.RouteTableDef()
OWNER: Final = "dropgate"  # of a model that lies directly under the root
ITEM: Final = b'{"object":"embedding","index":%d,"embedding":%b}'


class EmbeddingsBody(msgspec.Struct):
    """`POST /v1/embeddings`. What stands behind `user`, which is ignored, is not OpenAI's but the gateway's own."""

    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Int64 | None = None
    user: str | None = None
    normalize: bool | None = None
    truncate: bool | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    truncation_side: Side | None = None


EXAMPLE: Final = {"input": ["how is a beam stored?", "the ring holds the beam"]}
_body: Final = msgspec.json.Decoder(EmbeddingsBody)


@routes.post("/v1/embeddings")
@says(body=EmbeddingsBody, example=EXAMPLE, answer=answers.OpenAIEmbeddings)
async def embeddings(request: web.Request) -> web.StreamResponse:
    """Texts or token ids to vectors, in OpenAI's shape, as JSON floats or base64."""
    body = decode(_body, await read(request))
    embedding = await asking.embed(
        request,
        given(body),
        model=body.model,
        normalize=body.normalize,
        truncate=body.truncate is not False,
        prompt=body.prompt,
        prompt_name=body.prompt_name,
        dimensions=body.dimensions,
        truncation_side=body.truncation_side,
    )
    counted = {"prompt_tokens": embedding.tokens, "total_tokens": embedding.tokens}
    tail = b"]," + orjson.dumps({"model": embedding.model.path, "usage": counted})[1:]
    frame = vectors.Frame(b'{"object":"list","data":[', tail, ITEM)
    response = vectors.framed(embedding, frame, body.encoding_format or "float")
    asking.name(response, embedding)
    return response


def given(body: EmbeddingsBody) -> list[Input]:
    """At least one input, as OpenAI asks for. Raises EmptyInput."""
    found = inputs(body.input, "input")
    if not found:
        raise EmptyInput("`input` is an empty list; give a text, or a list of texts")
    return found


@routes.get("/v1/models")
@says(answer=answers.OpenAIModels)
async def models(request: web.Request) -> web.Response:
    """What can be asked for now, as OpenAI lists models, aliases too: `root` is what an alias leads to."""
    entries = {entry["id"]: entry for entry in asking.served(request)}
    cards = [_card(entry, entry["id"]) for entry in entries.values()]
    aliases = [alias for alias in asking.aliases(request) if alias["model"] in entries]
    cards += [_card(entries[alias["model"]], alias["id"]) for alias in aliases if not alias["warning"]]
    return answer({"object": "list", "data": cards})


@routes.get("/v1/models/{model:.+}")
@says(answer=answers.OpenAIModel)
async def model(request: web.Request) -> web.Response:
    """One of them, by any spelling of its id."""
    spelling = request.match_info["model"]
    service = request[SERVICE]
    found, _ = service.live(spelling)
    names = {alias["id"] for alias in asking.aliases(request)} & {spelling, PREFIX + spelling}
    return answer(_card(service.catalog.show(found), min(names, default=str(found))))


def _card(entry: dict[str, Any], name: str) -> dict[str, Any]:
    """`parent` is an adapter's base, or what the model's metadata names as its own."""
    base = entry["base"] or entry["metadata"].get("base_model")
    return {
        "id": name.removeprefix(PREFIX),
        "object": "model",
        "created": int(entry["since"] or 0),
        "owned_by": entry["namespace"] or OWNER,
        "root": entry["id"].removeprefix(PREFIX),
        "parent": base if isinstance(base, str) else None,
    }


# Errors: the statuses decide which exception OpenAI's clients raise.

STATUSES: Final[dict[type[errors.GatewayError], int]] = {
    errors.InputTooLong: 400,
    errors.TooManyInputs: 400,
    errors.ProviderNotFound: 404,
    errors.ProviderModelNotFound: 404,
}
TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES: Final = {401: "invalid_api_key", 429: "rate_limit_exceeded"}  # those that clients compare with


def refusal(error: errors.GatewayError, status: int) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
            "param": _parameter(error),
            "code": "context_length_exceeded" if isinstance(error, errors.InputTooLong) else _code(error, status),
        }
    }


def _code(error: errors.GatewayError, status: int) -> str:
    return CODES.get(status, error.code)


def _parameter(error: errors.GatewayError) -> str | None:
    match error:
        case errors.ModelNotFound() | errors.GenerationNotFound() | errors.InvalidModelId() | errors.NotServable():
            return "model"
        case errors.ProviderNotFound() | errors.ProviderModelNotFound():
            return "model"
        case errors.InvalidInput() | errors.EmptyInput() | errors.TooManyInputs() | errors.InputTooLong():
            return "input"
        case errors.InvalidDimensions():
            return "dimensions"
        case errors.UnknownPrompt():
            return "prompt_name"
    field = error.details.get("field")
    return field if isinstance(field, str) else None


DIALECT: Final = Dialect("OpenAI", re.compile(r"/v1(?:/|$)"), refusal, answers.OpenAIFailed, STATUSES)
