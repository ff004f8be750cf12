"""Files that a client sends as `multipart/form-data`: read one after the other, so that a request of any size takes no
more memory than one bite of files.

A file over the limit is read to its end and dropped: the others are still worth having.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.ask.intake import File
from gateway.errors import BodyTooSlow, InvalidBody
from gateway.web.body import SECONDS, Value

T = TypeVar("T")
BITE_BYTES: Final = 16 * 1024**2  # after which files are handed on
BITE_FILES: Final = 64
PIECE: Final = 2**16
MOST_FIELD: Final = 2**16  # bytes of what is no file
METADATA: Final = "metadata"

_metadata: Final = msgspec.json.Decoder(dict[str, Value])


class Upload(msgspec.Struct, frozen=True):
    """A file, or the name of one that was too large."""

    name: str
    file: File | None


async def bites(request: web.Request, most_bytes: int) -> AsyncIterator[list[Upload]]:
    """Every file of the request. A field `metadata`, a JSON object, is that of the files behind it. Raises InvalidBody
    and BodyTooSlow."""
    metadata: dict[str, Value] = {}
    bite: list[Upload] = []
    size = 0
    async for part in _parts(request):
        if "Content-Encoding" in part.headers:
            raise InvalidBody("the parts of a body are sent unpacked: without Content-Encoding", field="body")
        if part.filename is None:
            metadata = await _field(request, part, metadata)
            continue
        content = await _content(request, part, most_bytes)
        file = None
        if content is not None:
            media = part.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            file = File(name=part.filename, content=content, media=media if media.isascii() else "", metadata=metadata)
        bite.append(Upload(part.filename, file))
        size += len(content or b"")
        if size >= BITE_BYTES or len(bite) >= BITE_FILES:
            yield bite
            bite, size = [], 0
    if bite:
        yield bite


async def _parts(request: web.Request) -> AsyncIterator[BodyPartReader]:
    with _broken_is_told():
        reader = await request.multipart()
    while True:
        with _broken_is_told():
            part = await _within(request, reader.next())
        if part is None:
            return
        if not isinstance(part, BodyPartReader):
            raise InvalidBody("a part of the body has parts itself", field="body")
        yield part


@contextmanager
def _broken_is_told() -> Iterator[None]:
    try:
        yield
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError) as error:  # aiohttp's, for what is none
        raise InvalidBody(f"the body is no multipart/form-data: {error}", field="body") from error


async def _content(request: web.Request, part: BodyPartReader, most_bytes: int) -> bytes | None:
    """None for more bytes than a document may have."""
    content = bytearray()
    fits = True
    with _broken_is_told():
        while piece := await _within(request, part.read_chunk(PIECE)):
            fits = fits and len(content) + len(piece) <= most_bytes
            if fits:
                content += piece
            else:
                content.clear()
        return bytes(part.decode(content)) if fits else None


async def _field(request: web.Request, part: BodyPartReader, metadata: dict[str, Value]) -> dict[str, Value]:
    raw = await _content(request, part, MOST_FIELD)
    if part.name != METADATA:
        return metadata
    try:
        return _metadata.decode(raw or b"")
    except ValueError as error:  # msgspec's, or of bytes that are no text
        raise InvalidBody(
            f"`metadata` is a JSON object of texts, numbers and booleans: {error}", field=METADATA
        ) from error


async def _within(request: web.Request, reading: Awaitable[T]) -> T:
    """Each piece has as long to come as a whole body has elsewhere: these may be far larger."""
    seconds = request.app.get(SECONDS, 0.0)
    try:
        async with asyncio.timeout(seconds or None):
            return await reading
    except TimeoutError as error:
        raise BodyTooSlow(f"nothing of the body came within {seconds:g} s") from error
