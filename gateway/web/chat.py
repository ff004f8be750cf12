"""`POST /v1/chat/completions` (https://platform.openai.com/docs/api-reference/chat): handed on to a provider, whose
answer comes back as it is, whole or in pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, cast

import msgspec
import orjson
from aiohttp import web

from gateway.ask import local
from gateway.ask.providers import EXTRACTIVE, Named, Provider
from gateway.errors import EmptyInput, GatewayError, InvalidJson, ProviderModelNotFound
from gateway.web import answers, asking, openai, sse
from gateway.web.asking import ROSTER, SERVICE
from gateway.web.body import decode, read, timeout
from gateway.web.contract import EVENTS, JSON, says
from gateway.web.errors import LINE, status
from gateway.web.native import answer

routes: Final = web.RouteTableDef()
DONE: Final = b"data: [DONE]\n\n"


class ChatMessage(msgspec.Struct):
    """One turn; what stands in it beyond these is handed on."""

    role: str
    content: str | list[dict[str, Any]] | None = None


class ChatBody(msgspec.Struct):
    """`POST /v1/chat/completions`. `model` is `provider:model`; all other fields of OpenAI's are handed on."""

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool | None = None


EXAMPLE: Final = {"model": "openai:gpt-4o-mini", "messages": [{"role": "user", "content": "how is a beam stored?"}]}
_body: Final = msgspec.json.Decoder(ChatBody)


@routes.post("/v1/chat/completions")
@says(body=ChatBody, example=EXAMPLE, answer=answers.ChatCompletion, media=(JSON, EVENTS))
async def completions(request: web.Request) -> web.StreamResponse:
    """A conversation, answered by a provider's language model in OpenAI's shape, whole or as server-sent events."""
    raw = await read(request)
    body = decode(_body, raw)
    if not body.messages:
        raise EmptyInput("`messages` is an empty list", field="messages")
    asking.count(request, [message.content for message in body.messages])
    named = _named(request, body)
    provider = request.app[ROSTER].find(named, asking.speaking(request))
    document = {name: value for name, value in _whole_of(raw).items() if name not in {"model", "stream"}}
    with request[SERVICE].at_work():
        if body.stream:
            chunks = _chunks(request, provider, document, named)
            return await sse.send(request, chunks, failed, seconds=timeout(request))
        response = answer(await _whole(request, provider, document, named))
        asking.name_speaker(request, response)
        return response


def _whole_of(raw: bytes) -> dict[str, Any]:
    """With the fields that a `ChatBody` leaves unread. Raises InvalidJson."""
    try:
        return cast(dict[str, Any], orjson.loads(raw))
    except orjson.JSONDecodeError as error:  # half a character, or a number beyond all floats
        raise InvalidJson(f"the body is not JSON: {error}") from error


def _named(request: web.Request, body: ChatBody) -> Named:
    """Who is to answer. Raises ProviderModelNotFound."""
    name = body.model or request[SERVICE].settings.llm_default
    if name == EXTRACTIVE:
        message = f"{EXTRACTIVE} answers from a knowledge base: POST /ask; here name a language model, PROVIDER:MODEL"
        raise ProviderModelNotFound(message, llm=name)
    return local.named(name)


async def _whole(request: web.Request, provider: Provider, document: dict[str, Any], named: Named) -> dict[str, Any]:
    async with asking.within(timeout(request)):
        found = await provider.complete(document, named.model)
    _spent(request, found)
    return {**found, "model": str(named)}


async def _chunks(
    request: web.Request, provider: Provider, document: dict[str, Any], named: Named
) -> AsyncGenerator[bytes]:
    async with aclosing(provider.stream(document, named.model)) as chunks:
        async for found in chunks:
            _spent(request, found)
            yield b"data: " + orjson.dumps({**found, "model": str(named)}) + b"\n\n"
    yield DONE


def _spent(request: web.Request, found: dict[str, Any]) -> None:
    """What is charged, as the provider counts. Tokens of the volume's own models were counted as they came."""
    if "said_tokens" in request[LINE]:
        return
    usage = found.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    if isinstance(total, int) and total >= 0:
        request[LINE]["tokens"] = total


def failed(error: GatewayError) -> bytes:
    """As OpenAI's clients look for it in a stream."""
    return b"data: " + orjson.dumps(openai.refusal(error, status(error, openai.DIALECT)), default=str) + b"\n\n"
