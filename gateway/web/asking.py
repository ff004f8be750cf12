"""What every protocol does around the service: who asks, for how long, and what the request's one line says.

The protocols decode and encode; here is what they share, so that a client is known, refused and logged in the same
way whatever it speaks.
"""

from __future__ import annotations

from typing import Any, Final, cast

from aiohttp import web

from gateway.catalog.lookup import Found
from gateway.errors import InvalidBody
from gateway.service import Embedding, EmbedRequest, Service
from gateway.web.body import Input, timeout
from gateway.web.errors import LINE

SERVICE: Final = web.AppKey("service", Service)


async def embed(request: web.Request, texts: list[Input], *, model: str | None, **options: Any) -> Embedding:
    """`options` are those of EmbedRequest. A model in the path wins over `model`, and that over the header X-Model."""
    if not all(isinstance(text, str) for text in texts):
        raise InvalidBody("token ids are not taken: send texts")
    asked = EmbedRequest(
        texts=cast(list[str], texts),
        model=request.match_info.get("model") or model or request.headers.get("X-Model"),
        key=client(request),
        timeout=timeout(request),
        **options,
    )
    request[LINE]["texts"] = len(asked.texts)
    embedding = await request.app[SERVICE].embed(asked, lambda found: tell_found(request, found))
    request[LINE].update(
        tokens=embedding.tokens,
        queue_seconds=embedding.load_seconds + embedding.queue_seconds,
        compute_seconds=embedding.compute_seconds,
    )
    return embedding


def listing(request: web.Request) -> list[dict[str, Any]]:
    """Every model, as `GET /models` shows it."""
    return request.app[SERVICE].catalog.listing()


def served(request: web.Request) -> list[dict[str, Any]]:
    """Those that can be asked for now."""
    return [entry for entry in listing(request) if entry["generation"]]


def show(request: web.Request, spelling: str) -> dict[str, Any]:
    """One model, whatever its state. Raises ModelNotFound."""
    service = request.app[SERVICE]
    return service.catalog.show(service.resolve(spelling))


def aliases(request: web.Request) -> list[dict[str, Any]]:
    """The listing of other names."""
    return request.app[SERVICE].catalog.aliases()


def client(request: web.Request) -> str:
    """What an alias's canary knows a client by, so that it stays on one side."""
    headers = request.headers
    return headers.get("X-Canary-Key") or headers.get("Authorization") or request.remote or ""


def tell_found(request: web.Request, found: Found) -> None:
    """What will run, for the log, whatever comes of it."""
    request[LINE].update(
        model=found.model.path,
        generation=found.generation.short,
        alias=found.alias.path if found.alias else None,
        arm=found.arm,
    )


def name(response: web.StreamResponse, embedding: Embedding) -> None:
    """Says in the headers which model and generation have answered."""
    response.headers["X-Model"] = str(embedding.model)
    response.headers["X-Model-Generation"] = embedding.generation.short
    if embedding.alias is not None:
        response.headers["X-Model-Alias"] = str(embedding.alias)
