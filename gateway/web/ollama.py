"""Ollama's protocol (https://github.com/ollama/ollama/blob/main/docs/api.md): vectors, and what models there are.

Its names have a tag: `:latest` is what is live. `keep_alive` is a wish: 0 unloads the model, when its last request has
ended; any other leaves it, as ever, until the room is needed, since a client of one model is not to hold the memory of
the others. Durations in answers are in nanoseconds.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web

from gateway import __version__, errors
from gateway.errors import InvalidBody
from gateway.model import PREFIX, Generation
from gateway.web import answers, asking, vectors
from gateway.web.asking import SERVICE
from gateway.web.body import Input, Int64, decode, read
from gateway.web.contract import says
from gateway.web.errors import Dialect
from gateway.web.native import answer

routes: Final = web.RouteTableDef()
TAG: Final = ":latest"
FOREVER: Final = datetime(9999, 12, 31, tzinfo=UTC)  # nothing expires: it goes when the room is needed
DURATION: Final = re.compile(
    r"[+-]?(?:0|(?:(?:\d++(?:\.\d*+)?|\.\d++)(?:ns|us|µs|ms|s|m|h))+)", re.ASCII
)  # of the language Go
KeepAlive = str | float | int | None
NANO: Final = 1_000_000_000
CAPABILITIES: Final = {"encoder": ["embedding"], "generator": ["completion"]}


class OllamaEmbedBody(msgspec.Struct):
    """`POST /api/embed`. `options` are of its own engine, and ignored."""

    model: str = ""
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: Int64 | None = None
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


class OllamaEmbeddingsBody(msgspec.Struct):
    """`POST /api/embeddings`, which is older."""

    model: str = ""
    prompt: str = ""
    keep_alive: KeepAlive = None
    options: dict[str, Any] | None = None


class OllamaShowBody(msgspec.Struct):
    """`POST /api/show`. `name` is the older name of `model`."""

    model: str = ""
    name: str = ""
    verbose: bool | None = None


_embed_body: Final = msgspec.json.Decoder(OllamaEmbedBody)
_embeddings_body: Final = msgspec.json.Decoder(OllamaEmbeddingsBody)
_show_body: Final = msgspec.json.Decoder(OllamaShowBody)


@routes.post("/api/embed")
@says(
    body=OllamaEmbedBody, example={"model": "all-MiniLM-L6-v2", "input": ["the beam"]}, answer=answers.OllamaEmbeddings
)
async def embed(request: web.Request) -> web.StreamResponse:
    """Texts to vectors of unit length, in Ollama's shape."""
    began = time.monotonic_ns()
    body = decode(_embed_body, await read(request))
    leave = leaves(body.keep_alive)
    texts: list[Input] = [*body.input] if isinstance(body.input, list) else [body.input] if body.input else []
    embedding = await asking.embed(
        request,
        texts,
        model=spelling(body.model),
        normalize=True,
        truncate=body.truncate is not False,
        dimensions=body.dimensions or None,  # its clients send 0 for all
    )
    if leave:
        await let_go(request, body.model)
    facts = {
        "total_duration": time.monotonic_ns() - began,
        "load_duration": round(embedding.load_seconds * NANO),
        "prompt_eval_count": embedding.tokens,
    }
    head = b'{"model":%b,"embeddings":[' % orjson.dumps(body.model)
    response = vectors.framed(embedding, vectors.Frame(head, b"]," + orjson.dumps(facts)[1:]))
    asking.name(response, embedding)
    return response


@routes.post("/api/embeddings")
@says(
    body=OllamaEmbeddingsBody,
    example={"model": "all-MiniLM-L6-v2", "prompt": "the beam"},
    answer=answers.OllamaEmbedding,
)
async def embeddings(request: web.Request) -> web.StreamResponse:
    """The older call: one prompt to one vector, as the model makes it."""
    body = decode(_embeddings_body, await read(request))
    leave = leaves(body.keep_alive)
    texts: list[Input] = [body.prompt] if body.prompt else []
    embedding = await asking.embed(request, texts, model=spelling(body.model))
    if leave:
        await let_go(request, body.model)
    head = b'{"embedding":' if texts else b'{"embedding":['
    response = vectors.framed(embedding, vectors.Frame(head, b"}" if texts else b"]}"))
    asking.name(response, embedding)
    return response


@routes.get("/api/tags")
@says(answer=answers.OllamaModels)
async def tags(request: web.Request) -> web.Response:
    """What can be asked for now, as Ollama lists models."""
    service = request[SERVICE]
    found = []
    for entry in asking.served(request):
        _, generation = service.live(entry["id"])
        found.append(
            _named(entry)
            | {"modified_at": stamp(entry["since"]), "size": entry["bytes_on_disk"] or 0}
            | {"digest": entry["generation"], "details": _details(entry, generation)}
        )
    return answer({"models": found})


@routes.get("/api/ps")
@says(answer=answers.OllamaModels)
async def ps(request: web.Request) -> web.Response:
    """What is loaded, as Ollama tells it."""
    service = request[SERVICE]
    found = []
    for entry in asking.served(request):
        if entry["state"] != "loaded":
            continue
        _, generation = service.live(entry["id"])
        graphics = any(device != "cpu" for device in entry["devices"])
        found.append(
            _named(entry)
            | {"size": entry["bytes_on_device"], "size_vram": entry["bytes_on_device"] if graphics else 0}
            | {"digest": entry["generation"], "details": _details(entry, generation)}
            | {"expires_at": FOREVER.isoformat(), "context_length": entry["max_tokens"]}
        )
    return answer({"models": found})


@routes.post("/api/show")
@says(body=OllamaShowBody, example={"model": "all-MiniLM-L6-v2"})
async def show(request: web.Request) -> web.Response:
    """What a model is, as Ollama tells it."""
    body = decode(_show_body, await read(request))
    if not (name := body.model or body.name):
        raise InvalidBody("model is required", field="model")
    service = request[SERVICE]
    model, generation = service.live(spelling(name))
    entry = service.catalog.show(model)
    family, manifest = generation.manifest.model_type, generation.manifest
    return answer(
        {
            "modelfile": "",
            "parameters": "",
            "template": "",
            "license": str(entry["metadata"].get("license", "")),
            "details": _details(entry, generation),
            "model_info": {
                "general.architecture": family,
                "general.parameter_count": manifest.parameters,
                f"{family}.context_length": manifest.max_tokens,
                f"{family}.embedding_length": manifest.dim,
                f"{family}.vocab_size": manifest.vocab_size,
            },
            "capabilities": CAPABILITIES.get(manifest.kind, []),
            "modified_at": stamp(entry["since"]),
        }
    )


@routes.get("/api/version")
async def version(request: web.Request) -> web.Response:
    """The gateway's own version."""
    return answer({"version": __version__})


def spelling(name: str) -> str:
    """What is asked for. Raises InvalidBody for no name."""
    if not name.strip():
        raise InvalidBody("model is required", field="model")
    return name.removesuffix(TAG)


def leaves(keep_alive: KeepAlive) -> bool:
    """Whether the model is to go after the request. Raises InvalidBody for what is no duration."""
    match keep_alive:
        case None:
            return False
        case int() | float():
            return keep_alive == 0
        case _ if DURATION.fullmatch(keep_alive):
            return not re.search(r"[1-9]", keep_alive)
        case _:
            raise InvalidBody('`keep_alive` takes seconds, or a duration such as "5m"', field="keep_alive")


async def let_go(request: web.Request, name: str) -> None:
    """A wish beside an answer, which many clients send with each request: the answer is neither refused for it nor
    lost."""
    if request[SERVICE].caller.may("operate"):
        with suppress(errors.GatewayError):
            await request[SERVICE].unload(spelling(name))


def _named(entry: dict[str, Any]) -> dict[str, str]:
    name = entry["id"].removeprefix(PREFIX) + TAG
    return {"name": name, "model": name}


def _details(entry: dict[str, Any], generation: Generation) -> dict[str, Any]:
    manifest = generation.manifest
    base = entry["base"] or entry["metadata"].get("base_model")
    return {
        "parent_model": base if isinstance(base, str) else "",
        "format": "safetensors",
        "family": manifest.model_type,
        "families": [manifest.model_type],
        "parameter_size": _count(manifest.parameters),
        "quantization_level": manifest.stored_dtype,
    }


def _count(parameters: int) -> str:
    """22.7M, as Ollama writes it."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= size:
            return f"{parameters / size:.1f}{unit}"
    return str(parameters)


def stamp(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds or 0, UTC).isoformat()


# Errors: one text.

STATUSES: Final[dict[type[errors.GatewayError], int]] = {
    errors.Overloaded: 503,  # "server busy"
    errors.InputTooLong: 400,
    errors.TooManyInputs: 400,
}


def refusal(error: errors.GatewayError, status: int) -> dict[str, Any]:
    if isinstance(error, errors.ModelNotFound):
        return {"error": f"{error.message}: model not found, try pulling it first"}
    return {"error": error.message}


DIALECT: Final = Dialect("Ollama", re.compile(r"/api(?:/|$)"), refusal, answers.ErrorText, STATUSES)
