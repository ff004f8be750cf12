"""How vectors leave: as JSON floats, as base64 or as the raw bytes that the host sent, whatever the protocol has around
them. No list of floats is ever made.

A large JSON answer is written a piece at a time, with the loop given back between two pieces: nobody else waits for
it, and it is never in memory as a whole. The document is the same.
"""

from __future__ import annotations

import asyncio
from binascii import b2a_base64
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
from aiohttp import web

from gateway.requests import Embedding, TokenVectors

OCTETS: Final = "application/octet-stream"
JSON: Final = "application/json"
PIECE: Final = 1 << 15  # numbers in a piece: 0.7 ms as floats
WHOLE: Final = 1 << 16  # numbers up to which an answer is written in one go


def octets(embedding: Embedding) -> web.StreamResponse:
    headers = {"X-Embedding-Shape": f"{embedding.rows},{embedding.dim}"}
    return web.Response(body=embedding.data, content_type=OCTETS, headers=headers)


def json(embedding: Embedding, encoding: str) -> web.StreamResponse:
    """`encoding` is float or base64."""
    if embedding.rows * embedding.dim > WHOLE:
        return Pieces(document(embedding, encoding))
    return web.Response(body=whole(embedding, encoding), content_type=JSON)


class Frame(msgspec.Struct, frozen=True):
    """What another protocol has around the vectors: `head` before the first and `tail` behind the last. `item`, where
    there is one, takes a vector's number and the vector."""

    head: bytes
    tail: bytes
    item: bytes | None = None


def framed(embedding: Embedding, frame: Frame, encoding: str = "float") -> web.StreamResponse:
    """`encoding` is float or base64."""
    pieces = framed_pieces(embedding, frame, encoding)
    if embedding.rows * embedding.dim > WHOLE:
        return Pieces(pieces)
    return web.Response(body=b"".join(pieces), content_type=JSON)


class Pieces(web.StreamResponse):
    """A JSON answer whose body is written when its headers have been, at the pace of the client."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self.content_type = JSON
        self._pieces = pieces

    async def write_eof(self, data: bytes = b"") -> None:
        for piece in self._pieces:
            await self.write(piece)
            await asyncio.sleep(0)  # the socket may take all there is, and others have waited for a piece
        await super().write_eof(data)


def whole(embedding: Embedding, encoding: str) -> bytes:
    """The JSON of an answer that is small."""
    if encoding == "base64":
        return b"".join(document(embedding, encoding))
    vectors = _matrix(embedding, 0, embedding.rows)
    return orjson.dumps({"embeddings": vectors, **_facts(embedding)}, option=orjson.OPT_SERIALIZE_NUMPY)


def document(embedding: Embedding, encoding: str) -> Iterator[bytes]:
    """The JSON of an answer, some rows at a time."""
    return framed_pieces(embedding, Frame(b'{"embeddings":[', b"]," + orjson.dumps(_facts(embedding))[1:]), encoding)


def framed_pieces(embedding: Embedding, frame: Frame, encoding: str) -> Iterator[bytes]:
    """The JSON of an answer in any protocol, some rows at a time."""
    step = max(1, PIECE // max(1, embedding.dim))
    rows = _base64 if encoding == "base64" else _floats
    yield frame.head
    for start in range(0, embedding.rows, step):
        if start:
            yield b","
        end = min(start + step, embedding.rows)
        if frame.item is None:
            yield rows(embedding, start, end)
        else:
            yield b",".join([frame.item % (row, rows(embedding, row, row + 1)) for row in range(start, end)])
    yield frame.tail


def nested(tokens: TokenVectors) -> Iterator[bytes]:
    """The JSON of vectors for each token: a list for each text, some rows at a time."""
    step, row = max(1, PIECE // max(1, tokens.dim)), 0
    yield b"["
    for number, count in enumerate(tokens.counts):
        end = row + count
        before = b",[" if number else b"["
        while end - row > step:
            yield before + _floats(tokens, row, row + step)
            before, row = b",", row + step
        yield before + _floats(tokens, row, end) + b"]"
        row = end
    yield b"]"


def _facts(embedding: Embedding) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "model": str(embedding.model),
        "dim": embedding.dim,
        "count": embedding.rows,
        "generation": embedding.generation.short,
        "normalized": embedding.normalized,
        "usage": {"tokens": embedding.tokens},
    }
    if embedding.alias is not None:
        facts["alias"] = str(embedding.alias)
    return facts


def _matrix(embedding: Embedding | TokenVectors, start: int, end: int) -> npt.NDArray[np.float32]:
    """Rows, in the memory that they came in."""
    dim = embedding.dim
    return np.frombuffer(embedding.data, "<f4", (end - start) * dim, 4 * start * dim).reshape(end - start, dim)


def _floats(embedding: Embedding | TokenVectors, start: int, end: int) -> bytes:
    """Rows as JSON arrays with commas between."""
    return orjson.dumps(_matrix(embedding, start, end), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _base64(embedding: Embedding, start: int, end: int) -> bytes:
    """Rows as JSON strings with commas between."""
    size = 4 * embedding.dim
    view = memoryview(embedding.data)
    rows = (b2a_base64(view[size * row : size * (row + 1)], newline=False) for row in range(start, end))
    return b'"' + b'","'.join(rows) + b'"'
