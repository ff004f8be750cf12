"""Server-sent events to the chunks of an answer (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Plain functions over bytes. An answer is whole once a chunk says why it ends; some servers send no `[DONE]` after that,
and a stream that ends without a reason was cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import orjson

from gateway.ask.providers import Delta, Spent

LONGEST: Final = 2**20  # bytes of one event
DONE: Final = b"[DONE]"


class Garbage(ValueError):
    """What came is no answer; the message says in which way."""


class Lines:
    """Bytes as they come in, the data of events out."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The data of each event that `received` ends. Raises Garbage for one without end."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        if len(self._rest) > LONGEST:
            raise Garbage(f"a line of more than {LONGEST} bytes")
        for line in lines:
            yield from self._line(line.removesuffix(b"\r"))

    def end(self) -> Iterator[bytes]:
        """What stands at the end without the empty line that belongs there: some servers leave it out."""
        yield from self._line(self._rest.removesuffix(b"\r"))
        self._rest = b""
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[bytes]:
        if not line:
            if self._data:
                yield b"\n".join(self._data)
            self._data, self._size = [], 0
        elif line.startswith(b"data:"):
            self._size += len(line)
            if self._size > LONGEST:
                raise Garbage(f"an event of more than {LONGEST} bytes")
            self._data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"{"):
            raise Garbage("a line of JSON that is no event")


class Trouble(Exception):
    """An error that the provider tells inside of an answer."""


class Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    text: str | None = None  # where a text is continued
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None
    index: int = 0


class Counted(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Chunk(msgspec.Struct):
    """What we need of a chunk, or of an answer in one piece."""

    choices: list[Choice] = []
    usage: Counted | None = None


def read(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises Garbage, and Trouble where it tells of one."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Garbage("no JSON") from error
    if not isinstance(found, dict):
        raise Garbage("JSON, but no object")
    if found.get("error"):
        raise Trouble(trouble(found))
    if not isinstance(found.get("choices"), list):
        raise Garbage("an object without choices")
    return found


def trouble(found: Any) -> str:
    """What an error document says, in whichever of the usual shapes."""
    said = found.get("error") or found.get("detail") or found.get("message") if isinstance(found, dict) else None
    if isinstance(said, dict):
        said = said.get("message") or said.get("code")
    return " ".join(str(said).split())[:500] if said else ""


def chunk(found: dict[str, Any]) -> Chunk:
    """Raises Garbage."""
    try:
        return msgspec.convert(found, Chunk)
    except msgspec.ValidationError as error:
        raise Garbage(str(error)) from error


def delta(found: Chunk) -> Delta:
    """The first choice's piece: that is all an answer needs."""
    first = next((choice for choice in found.choices if choice.index == 0), None)
    piece = (first.delta or first.message or {}) if first else {}
    content = piece.get("content")
    spent = None
    if found.usage is not None:
        spent = Spent(found.usage.prompt_tokens or 0, found.usage.completion_tokens or 0)
    return Delta(
        content=content if isinstance(content, str) else "", finish=first.finish_reason if first else None, spent=spent
    )


def finished(found: Chunk) -> bool:
    return any(choice.finish_reason for choice in found.choices)
