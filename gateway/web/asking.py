"""What every protocol does around the service: who asks, for how long, and what the request's one line says.

The protocols decode and encode; here is what they share, so that a client is known, refused and logged in the same
way whatever it speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from gateway.catalog.lookup import Found
from gateway.service import Embedding, EmbedRequest, Service
from gateway.web.body import timeout
from gateway.web.errors import LINE

SERVICE: Final = web.RequestKey("service", Service)  # on behalf of whoever asks

INPUTS: Final = web.RequestKey("inputs", Sequence[Any])


async def embed(request: web.Request, texts: Sequence[str], *, model: str | None, **options: Any) -> Embedding:
    """`options` are those of EmbedRequest. A model in the path wins over `model`, and that over the header X-Model."""
    asked = EmbedRequest(
        texts=list(texts),
        model=request.match_info.get("model") or model or request.headers.get("X-Model"),
        key=client(request),
        timeout=timeout(request),
        **options,
    )
    count(request, asked.texts)
    embedding = await request[SERVICE].embed(asked, lambda found: tell_found(request, found))
    request[LINE].update(
        tokens=embedding.tokens,
        queue_seconds=embedding.load_seconds + embedding.queue_seconds,
        compute_seconds=embedding.compute_seconds,
    )
    return embedding


def count(request: web.Request, inputs: Sequence[Any]) -> None:
    """What is asked for, for the log; the inputs themselves are for an audit log that wants them."""
    request[LINE]["texts"] = len(inputs)
    request[INPUTS] = inputs


def client(request: web.Request) -> str:
    """What an alias's canary knows a client by, so that it stays on one side."""
    headers = request.headers
    key = request[SERVICE].caller.key or headers.get("Authorization")
    return headers.get("X-Canary-Key") or key or request.remote or ""


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
