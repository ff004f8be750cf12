"""Ollama's protocol, spoken to language models on the volume: `/api/generate` and `/api/chat`, whole or as JSON lines.

Options that say how a text is to be continued are honoured or refused by name; those of Ollama's engine, such as
`num_ctx`, are ignored. Without a prompt, or without messages, a model is loaded, or unloaded with `keep_alive` 0.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Any, Final

import msgspec
import orjson
from aiohttp import web

from gateway.ask import local
from gateway.errors import GatewayError, InvalidBody
from gateway.host import wire
from gateway.host.wire import Piece, Turn
from gateway.requests import GenerateRequest
from gateway.service import Service
from gateway.web import answers, asking, ollama, sse
from gateway.web.asking import SERVICE
from gateway.web.body import decode, read, timeout
from gateway.web.contract import JSON, says
from gateway.web.errors import status
from gateway.web.native import answer
from gateway.web.ollama import KeepAlive, leaves, let_go, spelling, stamp

routes: Final = web.RouteTableDef()
LINES: Final = "application/x-ndjson"
# They change what is said, and nothing here does what they ask for; beside each what asks for nothing.
UNSERVED: Final[dict[str, tuple[float, ...]]] = {
    "repeat_penalty": (1.0,),
    "min_p": (0.0,),
    "typical_p": (1.0,),
    "tfs_z": (1.0,),
    "mirostat": (0.0,),
}


class Options(msgspec.Struct):
    """How a text is to be continued, in Ollama's words. A `num_predict` below 0 is as many as fit."""

    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    num_predict: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    frequency_penalty: local.Penalty | None = None
    presence_penalty: local.Penalty | None = None
    repeat_penalty: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    tfs_z: float | None = None
    mirostat: float | None = None

    def sampling(self) -> wire.Sampling:
        """Raises InvalidBody for what is not served."""
        for name, nothing in UNSERVED.items():
            if getattr(self, name) not in (None, *nothing):
                raise InvalidBody(f"the option {name} is not served", field=f"options.{name}")
        return wire.Sampling(
            max_tokens=max(0, self.num_predict or 0),
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            stop=local.stops(self.stop, "options.stop"),
            seed=self.seed,
        )


class OllamaTalk(msgspec.Struct):
    """What both calls have. What follows `options` is known and not served, unless it asks for nothing."""

    model: str = ""
    stream: bool | None = None
    keep_alive: KeepAlive = None
    options: Options | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    images: list[str] | None = None
    tools: list[Any] | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None

    def refuse(self) -> None:
        """Raises InvalidBody for what is not served."""
        for name in ("format", "think", "images", "tools", "suffix", "template", "context"):
            if getattr(self, name):
                raise InvalidBody(f"{name} is not served for the language models on the volume", field=name)


class OllamaGenerateBody(OllamaTalk):
    """`POST /api/generate`, which without a prompt loads a model, and with `keep_alive` 0 unloads it. `raw` leaves the
    prompt as it is; otherwise it is a turn of the model's chat template."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None

    def asked(self) -> tuple[str, list[Turn]]:
        """A text, or turns."""
        if self.raw:
            return self.prompt or "", []
        system = [Turn("system", self.system)] if self.system else []
        return "", [*system, Turn("user", self.prompt or "")]


class OllamaMessage(msgspec.Struct):
    role: str
    content: str = ""
    images: list[str] | None = None
    tool_calls: list[Any] | None = None


class OllamaChatBody(OllamaTalk):
    """`POST /api/chat`, which without messages loads a model, and with `keep_alive` 0 unloads it."""

    messages: list[OllamaMessage] | None = None

    def turns(self) -> list[Turn]:
        """Raises InvalidBody for what is no text."""
        for message in self.messages or []:
            if message.images or message.tool_calls:
                raise InvalidBody("a message of images or tool_calls cannot be read: text alone is", field="messages")
        return [Turn(message.role, message.content) for message in self.messages or []]


_generate_body: Final = msgspec.json.Decoder(OllamaGenerateBody)
_chat_body: Final = msgspec.json.Decoder(OllamaChatBody)
Word = Callable[[str], dict[str, Any]]  # a piece of the answer, in the shape of its call


@routes.post("/api/generate")
@says(
    body=OllamaGenerateBody,
    example={"model": "all-MiniLM-L6-v2", "keep_alive": 0},
    answer=answers.OllamaSaid,
    media=(JSON, LINES),
)
async def generate(request: web.Request) -> web.StreamResponse:
    """A prompt, answered. Without one it loads a model, or unloads it with `keep_alive` 0."""
    body = decode(_generate_body, await read(request))
    body.refuse()
    if not body.prompt:
        return await _moved(request, body, {"response": ""})
    _demand(request, body.model, "generate")
    asking.count(request, [body.prompt])
    return await _answered(request, body, *body.asked(), lambda text: {"response": text})


@routes.post("/api/chat")
@says(
    body=OllamaChatBody,
    example={"model": "base/qwen", "messages": [{"role": "user", "content": "how is a beam stored?"}]},
    answer=answers.OllamaSaid,
    media=(JSON, LINES),
)
async def chat(request: web.Request) -> web.StreamResponse:
    """A conversation, answered. Without messages it loads a model, or unloads it with `keep_alive` 0."""
    body = decode(_chat_body, await read(request))
    body.refuse()
    turns = body.turns()
    if not turns:
        return await _moved(request, body, _spoken(""))
    _demand(request, body.model, "chat")
    asking.count(request, [turn.content for turn in turns])
    return await _answered(request, body, "", turns, _spoken)


def _spoken(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def _demand(request: web.Request, name: str, what: str) -> None:
    """Raises InvalidBody, in Ollama's words, and ModelNotFound."""
    _, generation = request[SERVICE].live(spelling(name))
    if generation.manifest.kind != "generator":
        raise InvalidBody(f'"{name}" does not support {what}', field="model")


async def _moved(request: web.Request, body: OllamaTalk, nothing: dict[str, Any]) -> web.Response:
    """Loaded or unloaded, and nothing said."""
    leave = leaves(body.keep_alive)
    if leave:
        await request[SERVICE].unload(spelling(body.model))
    else:
        await request[SERVICE].load(spelling(body.model))
    return answer(_head(body) | nothing | {"done": True, "done_reason": "unload" if leave else "load"})


async def _answered(
    request: web.Request, body: OllamaTalk, text: str, turns: list[Turn], word: Word
) -> web.StreamResponse:
    """As lines unless the body says otherwise, which is Ollama's own choice."""
    asked = GenerateRequest(
        text=text,
        turns=turns,
        sampling=(body.options or Options()).sampling(),
        model=spelling(body.model),
        key=asking.client(request),
        timeout=timeout(request),
    )
    leave = leaves(body.keep_alive)
    service, began = asking.speaking(request), time.monotonic_ns()
    with request[SERVICE].at_work():
        if body.stream is not False:
            made = _lines(service, body, asked, word, began)
            response = await sse.send(request, made, _failed, seconds=timeout(request), media=LINES)
        else:
            said, last = await local.whole(service, asked)
            response = answer(_head(body) | word(said) | _end(last, began))
            asking.name_speaker(request, response)
    if leave:
        await let_go(request, body.model)
    return response


async def _lines(
    service: Service, body: OllamaTalk, asked: GenerateRequest, word: Word, began: int
) -> AsyncGenerator[bytes]:
    async with aclosing(service.generate(asked)) as pieces:
        async for piece in pieces:
            if piece.text:
                yield _line(_head(body) | word(piece.text) | {"done": False})
    yield _line(_head(body) | word("") | _end(piece, began))


def _head(body: OllamaTalk) -> dict[str, Any]:
    return {"model": body.model, "created_at": stamp(time.time())}


def _end(last: Piece, began: int) -> dict[str, Any]:
    """Reading and speaking share their calls with others, so that the time of neither is known."""
    return {
        "done": True,
        "done_reason": last.finish,
        "total_duration": time.monotonic_ns() - began,
        "prompt_eval_count": last.prompt,
        "eval_count": last.tokens,
    }


def _line(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document) + b"\n"


def _failed(error: GatewayError) -> bytes:
    return _line(ollama.refusal(error, status(error, ollama.DIALECT)))
