"""What every protocol does around the service: who asks, for how long, and what the request's one line says.

The protocols decode and encode; here is what they share, so that a client is known, refused and logged in the same
way whatever it speaks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, cast

from aiohttp import web

from gateway.ask.answer import Answerer
from gateway.ask.roster import Roster
from gateway.catalog.lookup import Found
from gateway.errors import DeadlineExceeded
from gateway.host.wire import Piece
from gateway.model import PREFIX
from gateway.requests import (
    DecodeRequest,
    Decoding,
    Embedding,
    EmbedRequest,
    Reranking,
    RerankRequest,
    Tokenization,
    TokenizeRequest,
    TokenVectors,
)
from gateway.service import Service
from gateway.web.body import Input, timeout
from gateway.web.errors import LINE

SERVICE: Final = web.RequestKey("service", Service)  # on behalf of whoever asks
INPUTS: Final = web.RequestKey("inputs", Sequence[Any])
ANSWERER: Final = web.AppKey("answerer", Answerer)
ROSTER: Final = web.AppKey("roster", Roster)  # of who can be asked to speak
Answer = Embedding | TokenVectors | Reranking | Tokenization | Decoding
Measured = TypeVar("Measured", Embedding, TokenVectors, Reranking)


async def embed(request: web.Request, texts: list[Input], *, model: str | None, **options: Any) -> Embedding:
    """`options` are those of EmbedRequest."""
    asked = EmbedRequest(texts=cast(list[str], texts), **_who(request, model), **options)
    count(request, texts)
    return _told(request, await request[SERVICE].embed(asked, _teller(request)))


async def embed_tokens(request: web.Request, texts: list[Input], *, model: str | None, **options: Any) -> TokenVectors:
    """`options` are those of EmbedRequest."""
    asked = EmbedRequest(texts=cast(list[str], texts), **_who(request, model), **options)
    count(request, texts)
    return _told(request, await request[SERVICE].embed_tokens(asked, _teller(request)))


async def rerank(request: web.Request, query: str, texts: list[str], *, model: str | None, **options: Any) -> Reranking:
    """`options` are those of RerankRequest."""
    asked = RerankRequest(query=query, texts=texts, **_who(request, model), **options)
    count(request, texts, query)
    return _told(request, await request[SERVICE].rerank(asked, _teller(request)))


async def tokenize(request: web.Request, texts: list[str], *, model: str | None, **options: Any) -> Tokenization:
    """`options` are those of TokenizeRequest."""
    asked = TokenizeRequest(texts=texts, **_who(request, model), **options)
    count(request, texts)
    return await request[SERVICE].tokenize(asked, _teller(request))


async def decode(request: web.Request, ids: list[list[int]], *, model: str | None, **options: Any) -> Decoding:
    """`options` are those of DecodeRequest."""
    asked = DecodeRequest(ids=ids, **_who(request, model), **options)
    count(request, ids)
    return await request[SERVICE].decode(asked, _teller(request))


def _who(request: web.Request, model: str | None) -> dict[str, Any]:
    """What every verb is asked for: a model in the path wins over `model`, and that over the header X-Model."""
    return {
        "model": request.match_info.get("model") or model or request.headers.get("X-Model"),
        "key": client(request),
        "timeout": timeout(request),
    }


def _teller(request: web.Request) -> Callable[[Found], None]:
    return lambda found: tell_found(request, found)


def _told(request: web.Request, done: Measured) -> Measured:
    """What it took, for the log."""
    request[LINE].update(
        tokens=done.tokens,
        load_seconds=done.load_seconds,
        queue_seconds=done.load_seconds + done.queue_seconds,
        compute_seconds=done.compute_seconds,
    )
    return done


def metered(request: web.Request) -> Service:
    """The service, for work of many steps: what they take is added up, for the log and for whoever pays, whatever comes
    of the request."""
    line = request[LINE]

    def add(done: Embedding | Reranking) -> None:
        line.setdefault("model", done.model.path)
        line["tokens"] = line.get("tokens", 0) + done.tokens
        line["load_seconds"] = line.get("load_seconds", 0.0) + done.load_seconds
        line["queue_seconds"] = line.get("queue_seconds", 0.0) + done.load_seconds + done.queue_seconds
        line["compute_seconds"] = line.get("compute_seconds", 0.0) + done.compute_seconds

    return request[SERVICE].metered(add)


def speaking(request: web.Request) -> Service:
    """The service, for what language models on the volume say: who speaks, and tokens as they come, read and said, for
    the log and for whoever pays. A client that leaves has used what was said until then."""
    line, began = request[LINE], time.monotonic()
    charge = _charger(request)

    def hear(piece: Piece) -> None:
        line["said_tokens"] = line.get("said_tokens", 0) + charge(piece)
        line.setdefault("first_token_seconds", time.monotonic() - began)

    return request[SERVICE].heard(_teller(request), hear)


def asked(request: web.Request) -> Service:
    """The service, for questions: what embedding them takes, and what language models on the volume read and say, as it
    comes. The line's model is the one that embeds, where any does."""
    charge = _charger(request)

    def tell(found: Found) -> None:
        if not request[LINE].get("model"):
            tell_found(request, found)

    def hear(piece: Piece) -> None:
        charge(piece)

    return metered(request).heard(tell, hear)


def _charger(request: web.Request) -> Callable[[Piece], int]:
    """Counts what each piece of an answer has added, and tells how much of that was said."""
    line = request[LINE]
    counted: dict[int, Piece] = {}

    def charge(piece: Piece) -> int:
        before = counted.get(piece.id)
        counted[piece.id] = piece
        said = piece.tokens - (before.tokens if before else 0)
        read = piece.prompt - (before.prompt if before else 0)  # an upstream may tell it with its last piece alone
        line["tokens"] = line.get("tokens", 0) + said + read
        return said

    return charge


def listing(request: web.Request) -> list[dict[str, Any]]:
    """Every model, as `GET /models` shows it."""
    return request[SERVICE].catalog.listing()


def served(request: web.Request) -> list[dict[str, Any]]:
    """Those that can be asked for now."""
    return [entry for entry in listing(request) if entry["generation"]]


def show(request: web.Request, spelling: str) -> dict[str, Any]:
    """One model, whatever its state. Raises ModelNotFound."""
    service = request[SERVICE]
    return service.catalog.show(service.resolve(spelling))


def aliases(request: web.Request) -> list[dict[str, Any]]:
    """The listing of other names."""
    return request[SERVICE].catalog.aliases()


@asynccontextmanager
async def within(seconds: float | None) -> AsyncGenerator[None]:
    """Raises DeadlineExceeded when the block has taken so long, and not for a disk or a socket that times out in it."""
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            yield
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise DeadlineExceeded(f"no answer within {seconds:g} s") from error


def count(request: web.Request, inputs: Sequence[Any], *more: str) -> None:
    """What is asked for, for the log. The inputs, with what is `more` of them, are for an audit log that wants them."""
    request[LINE]["texts"] = len(inputs)
    request[INPUTS] = [*more, *inputs] if more else inputs


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


def name_speaker(request: web.Request, response: web.StreamResponse) -> None:
    """The same, of a language model on the volume that has spoken."""
    line = request[LINE]
    if "said_tokens" in line and line.get("model"):
        response.headers["X-Model"] = f"{PREFIX}{line['model']}"
        response.headers["X-Model-Generation"] = line["generation"]
        if line.get("alias"):
            response.headers["X-Model-Alias"] = f"{PREFIX}{line['alias']}"


def name(response: web.StreamResponse, done: Answer) -> None:
    """Says in the headers which model and generation have answered."""
    response.headers["X-Model"] = str(done.model)
    response.headers["X-Model-Generation"] = done.generation.short
    if done.alias is not None:
        response.headers["X-Model-Alias"] = str(done.alias)
