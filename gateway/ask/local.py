"""The language models on the volume as a provider: what is asked in OpenAI's words, the service's verb does.

What cannot be done here is refused by name: a parameter that is silently ignored gives another answer than was asked
for.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Final

import msgspec

from gateway.ask.providers import LOCAL, Delta, Message, Named, Sampling, Spent
from gateway.errors import InvalidBody
from gateway.host import wire
from gateway.host.wire import Likely, Logprob, Piece, Turn
from gateway.requests import GenerateRequest, mistyped
from gateway.service import Service

MOST_STOPS: Final = 16
MOST_LIKELY: Final = 20  # tokens that are told in the place of one
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Part(msgspec.Struct):
    """Of a message in several parts."""

    type: str
    text: str | None = None


class Spoken(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None


class Manner(msgspec.Struct):
    """What OpenAI's API has for how a text is to be continued. What follows `seed` is known and not served, unless it
    asks for nothing."""

    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    best_of: int | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    def sampling(self) -> wire.Sampling:
        """Raises InvalidBody for what is not served."""
        for name in ("logit_bias", "tools", "functions"):
            if getattr(self, name):
                raise InvalidBody(f"{name} is not served for the language models on the volume", field=name)
        for name in ("n", "best_of"):
            if getattr(self, name) not in (None, 1):
                raise InvalidBody(f"{name} can only be 1 for the language models on the volume", field=name)
        if (self.response_format or {}).get("type", "text") != "text":
            message = "response_format can only be text for the language models on the volume"
            raise InvalidBody(message, field="response_format")
        return wire.Sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or 0,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            stop=stops(self.stop, "stop"),
            seed=self.seed,
            logprobs=self.likely(),
        )

    def likely(self) -> int | None:
        """How many of the likeliest tokens are told beside each that was said; None where nothing is told of them.
        Raises InvalidBody."""
        raise NotImplementedError


def stops(given: str | list[str] | None, field: str) -> list[str]:
    """Stop sequences, however many a client has named in that field. Raises InvalidBody for too many."""
    found = [given] if isinstance(given, str) else given or []
    if len(found) > MOST_STOPS:
        raise InvalidBody(f"at most {MOST_STOPS} stop sequences can be given", field=field)
    return found


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Conversation(Manner):
    messages: list[Spoken] = []
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MOST_LIKELY)] | None = None

    def likely(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise InvalidBody("top_logprobs needs logprobs to be true", field="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class Local:
    """Provider of the language model `model`, on behalf of the service's caller. Raises ModelNotFound and what else the
    service has for a model that is not there."""

    name = LOCAL

    def __init__(self, service: Service, model: str) -> None:
        self._service = service
        _, generation = service.live(model)
        self.context = generation.manifest.max_tokens

    async def chat(self, messages: Sequence[Message], model: str, sampling: Sampling) -> AsyncGenerator[Delta]:
        request = GenerateRequest(
            turns=[Turn(message.role, message.content) for message in messages],
            sampling=wire.Sampling(max_tokens=sampling.max_tokens or 0, temperature=sampling.temperature),
            model=model,
        )
        async with aclosing(self._service.generate(request)) as pieces:
            async for piece in pieces:
                spent = Spent(piece.prompt, piece.tokens) if piece.finish else None
                yield Delta(content=piece.text, finish=piece.finish or None, spent=spent)

    async def stream(self, body: Mapping[str, Any], model: str) -> AsyncGenerator[dict[str, Any]]:
        asked = _conversation(body)
        head = _head("chat.completion.chunk", model)
        begun = False  # once it speaks: what fails before that is an answer with a status of its own
        async with aclosing(self._service.generate(_request(asked, model))) as pieces:
            async for piece in pieces:
                if not begun:
                    begun = True
                    yield head | {"choices": [_chunk({"role": "assistant", "content": ""}, None)]}
                delta = {"content": piece.text} if piece.text else {}
                usage = {"usage": spent(piece)} if piece.finish else {}
                chunk = _chunk(delta, piece.finish or None, _content(piece.logprobs) if piece.logprobs else None)
                yield head | {"choices": [chunk]} | usage
        if asked.stream_options and asked.stream_options.include_usage:
            yield head | {"choices": [], "usage": spent(piece)}

    async def complete(self, body: Mapping[str, Any], model: str) -> dict[str, Any]:
        asked = _conversation(body)
        text, last = await whole(self._service, _request(asked, model))
        message = {"role": "assistant", "content": text}
        logprobs = _content(last.logprobs) if asked.logprobs else None
        choice = {"index": 0, "message": message, "finish_reason": last.finish, "logprobs": logprobs}
        return _head("chat.completion", model) | {"choices": [choice], "usage": spent(last)}

    async def models(self) -> tuple[str, ...]:
        return offered(self._service)


def offered(service: Service) -> tuple[str, ...]:
    """`namespace/name` of the language models that the service's caller may ask now."""
    listed = service.catalog.listing()
    return tuple(
        entry["id"].removeprefix(f"{LOCAL}:")
        for entry in listed
        if entry["generation"] and entry["kind"] == "generator"
    )


async def whole(service: Service, request: GenerateRequest) -> tuple[str, Piece]:
    """All of the text, and the last piece, with what is told of all tokens."""
    text, logprobs = [], []
    async with aclosing(service.generate(request)) as pieces:
        async for piece in pieces:
            text.append(piece.text)
            logprobs += piece.logprobs
    return "".join(text), msgspec.structs.replace(piece, logprobs=logprobs)


def spent(piece: Piece) -> dict[str, int]:
    """As OpenAI counts."""
    total = piece.prompt + piece.tokens
    return {"prompt_tokens": piece.prompt, "completion_tokens": piece.tokens, "total_tokens": total}


def named(spelling: str) -> Named:
    """`provider:model`; a model of the volume needs no provider before it."""
    return Named(LOCAL, spelling.strip()) if "/" in spelling.partition(":")[0] else Named.parse(spelling)


def _conversation(body: Mapping[str, Any]) -> Conversation:
    try:
        return msgspec.convert(body, Conversation)
    except msgspec.ValidationError as error:
        raise mistyped(error) from error


def _request(asked: Conversation, model: str) -> GenerateRequest:
    return GenerateRequest(turns=[_turn(each) for each in asked.messages], sampling=asked.sampling(), model=model)


def _turn(spoken: Spoken) -> Turn:
    content = spoken.content or ""
    if isinstance(content, list):
        others = sorted({part.type for part in content} - {"text"})
        if others:
            raise InvalidBody(f"a message of {', '.join(others)} cannot be read: text alone is", field="messages")
        content = "".join(part.text or "" for part in content)
    return Turn(spoken.role, content)


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _chunk(delta: dict[str, Any], finish: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}


def _content(logprobs: Sequence[Logprob]) -> dict[str, Any]:
    """As a conversation tells them."""
    found = [{**_likely(each.said), "top_logprobs": [_likely(top) for top in each.top]} for each in logprobs]
    return {"content": found, "refusal": None}


def _likely(likely: Likely) -> dict[str, Any]:
    return {"token": likely.text, "bytes": likely.bytes, "logprob": likely.logprob}
