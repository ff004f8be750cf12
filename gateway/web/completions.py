"""`POST /v1/completions` (https://platform.openai.com/docs/api-reference/completions): texts, continued by a language
model on the volume."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import Annotated, Any, Final

import msgspec
import orjson
from aiohttp import web

from gateway.ask import local
from gateway.ask.local import Manner, StreamOptions
from gateway.ask.providers import LOCAL
from gateway.errors import EmptyInput, InvalidBody, ProviderModelNotFound
from gateway.host.wire import Logprob, Piece
from gateway.requests import GenerateRequest
from gateway.web import answers, asking, chat, sse
from gateway.web.asking import SERVICE
from gateway.web.body import decode, read, timeout
from gateway.web.contract import EVENTS, JSON, says
from gateway.web.native import answer

routes: Final = web.RouteTableDef()
DEFAULT_TOKENS: Final = 16  # as OpenAI has it


class CompletionBody(Manner):
    """`POST /v1/completions`. `model` is an id of `GET /v1/models`."""

    prompt: str | list[str] = ""
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    suffix: str | None = None
    user: str | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=local.MOST_LIKELY)] | None = None

    def likely(self) -> int | None:
        if self.logprobs is not None and self.echo:
            raise InvalidBody("logprobs are told of what is said, not of an echo", field="logprobs")
        return self.logprobs


EXAMPLE: Final = {"model": "base/qwen", "prompt": "the beam is stored", "max_tokens": 8}
_body: Final = msgspec.json.Decoder(CompletionBody)


@routes.post("/v1/completions")
@says(body=CompletionBody, example=EXAMPLE, answer=answers.Completion, media=(JSON, EVENTS))
async def completions(request: web.Request) -> web.StreamResponse:
    """A text, or each of several, continued: whole or as server-sent events."""
    body = decode(_body, await read(request))
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not prompts or not all(prompts):
        raise EmptyInput("`prompt` is empty", field="prompt")
    if body.suffix:
        raise InvalidBody("suffix is not served", field="suffix")
    asking.count(request, prompts)
    model = _model(request, body)
    asked = [_asked(request, body, prompt, model) for prompt in prompts]
    head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
    with request[SERVICE].at_work():
        if body.stream:
            chunks = _chunks(request, body, asked, head | {"model": model})
            return await sse.send(request, chunks, chat.failed, seconds=timeout(request))
        response = answer(await _whole(request, body, asked, head | {"model": model}))
        asking.name_speaker(request, response)
        return response


def _model(request: web.Request, body: CompletionBody) -> str:
    spelling = body.model or request[SERVICE].settings.llm_default
    named = local.named(spelling)
    if named.provider != LOCAL:
        message = f"{named} is elsewhere: POST /v1/chat/completions speaks to it"
        raise ProviderModelNotFound(message, llm=spelling)
    return named.model


def _asked(request: web.Request, body: CompletionBody, prompt: str, model: str) -> GenerateRequest:
    sampling = body.sampling()
    if not sampling.max_tokens:
        sampling = msgspec.structs.replace(sampling, max_tokens=DEFAULT_TOKENS)
    return GenerateRequest(
        text=prompt, sampling=sampling, model=model, key=asking.client(request), timeout=timeout(request)
    )


async def _whole(
    request: web.Request, body: CompletionBody, asked: list[GenerateRequest], head: dict[str, Any]
) -> dict[str, Any]:
    service = asking.speaking(request)
    choices, counted = [], dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
    for index, each in enumerate(asked):
        text, last = await local.whole(service, each)
        likely = _likely(last.logprobs, 0) if body.logprobs is not None else None
        choices.append(_choice(index, _before(body, each) + text, last.finish, likely))
        counted = _summed(counted, last)
    return head | {"choices": choices, "usage": counted}


async def _chunks(
    request: web.Request, body: CompletionBody, asked: list[GenerateRequest], head: dict[str, Any]
) -> AsyncGenerator[bytes]:
    """One text after the other."""
    service = asking.speaking(request)
    counted = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
    for index, each in enumerate(asked):
        before, at = _before(body, each), 0
        async with aclosing(service.generate(each)) as pieces:
            async for piece in pieces:
                likely = _likely(piece.logprobs, at) if piece.logprobs else None
                yield _event(head | {"choices": [_choice(index, before + piece.text, piece.finish or None, likely)]})
                before, at = "", at + sum(len(each.said.text) for each in piece.logprobs)
        counted = _summed(counted, piece)
    if body.stream_options and body.stream_options.include_usage:
        yield _event(head | {"choices": [], "usage": counted})
    yield chat.DONE


def _before(body: CompletionBody, asked: GenerateRequest) -> str:
    return asked.text if body.echo else ""


def _choice(index: int, text: str, finish: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": index, "text": text, "finish_reason": finish, "logprobs": logprobs}


def _likely(logprobs: Sequence[Logprob], at: int) -> dict[str, Any]:
    """As a continued text tells them; the first token begins `at` that character."""
    tokens = [each.said.text for each in logprobs]
    return {
        "tokens": tokens,
        "token_logprobs": [each.said.logprob for each in logprobs],
        "top_logprobs": [{top.text: top.logprob for top in each.top} for each in logprobs],
        "text_offset": list(accumulate(map(len, tokens[:-1]), initial=at)) if tokens else [],
    }


def _summed(counted: dict[str, int], last: Piece) -> dict[str, int]:
    more = local.spent(last)
    return {name: tokens + more[name] for name, tokens in counted.items()}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document) + b"\n\n"
