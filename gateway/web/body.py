"""What a client sends: read within the limit, decoded into its type, and refused in words that name the field.

A body that says it is too large is not read at all, and one that has come whole with its headers is taken at once.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Final, TypeVar, cast

import msgspec
from aiohttp import web

from gateway.errors import BodyTooLarge, BodyTooSlow, InvalidBody, InvalidHeader, InvalidJson
from gateway.requests import mistyped

T = TypeVar("T")
SECONDS: Final = web.AppKey("body_seconds", float)  # that a body has to come; 0 is for ever
TIMEOUT: Final = "X-Request-Timeout"
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # what JSON can be answered with
Value = str | Int64 | float | bool  # of a document's metadata
TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Input = str | list[TokenId]  # a text, or what a tokenizer has made of one
Inputs = str | list[str | TokenId | list[TokenId]]
DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})(ms|s|)", re.ASCII)


async def read(request: web.Request) -> bytes:
    """Raises BodyTooLarge, BodyTooSlow, and what the server raises for a body that is not packed as its headers say."""
    if (request.content_length or 0) > request.client_max_size:
        raise too_large(request)
    if not request.content.is_eof():  # more is to come
        seconds = request.app.get(SECONDS, 0.0)
        try:
            async with asyncio.timeout(seconds or None):
                return await request.read()
        except TimeoutError as error:
            raise BodyTooSlow(f"the body did not come within {seconds:g} s") from error
    body = request.content.read_nowait()
    if len(body) > request.client_max_size:  # unpacked
        raise too_large(request)
    return body


def too_large(request: web.Request) -> BodyTooLarge:
    return BodyTooLarge(f"the body is over the limit of {request.client_max_size} bytes", limit=request.client_max_size)


def decode(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """A typed body. Raises InvalidJson or InvalidBody, which names the field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise mistyped(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJson(f"the body is not JSON: {error}") from error


def timeout(request: web.Request) -> float | None:
    """Seconds that the client will wait: `0.5`, `30s` or `250ms`. Raises InvalidHeader."""
    text = request.headers.get(TIMEOUT)
    if text is None:
        return None
    found = DURATION.fullmatch(text.strip())
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not seconds:
        raise InvalidHeader(f"{TIMEOUT} takes seconds, such as 0.5, 30s or 250ms, more than none", header=TIMEOUT)
    return seconds


def inputs(given: Inputs, field: str) -> list[Input]:
    """What is to be embedded, one for each vector: one text or one list of token ids is a list of one. Raises
    InvalidBody where numbers stand among texts."""
    if isinstance(given, str):
        return [given]
    kinds = set(map(type, given))
    if kinds == {int}:
        return [cast(list[int], given)]
    if int in kinds:
        raise InvalidBody(
            f"`{field}` is a text, a list of texts, token ids, or a list of lists of token ids", field=field
        )
    return cast(list[Input], given)
