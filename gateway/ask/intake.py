"""What somebody puts into a knowledge base, and what became of it."""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import msgspec

from gateway.ask.passage import Value
from gateway.errors import GatewayError, InvalidBody

LONGEST_NAME: Final = 1024  # bytes of a document's name
READER: Final = "1"  # goes up when the same bytes are read to another text: then equal bytes are new again

Status = Literal["added", "replaced", "unchanged", "failed"]


class File(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody puts in. `media` is what they say it is, perhaps nothing; `source` is for people, the name if
    empty."""

    name: str
    content: bytes
    media: str = ""
    source: str = ""
    metadata: dict[str, Value] = {}

    @property
    def digest(self) -> str:
        about = msgspec.json.encode([READER, self.media, self.source, sorted(self.metadata.items())])
        return hashlib.sha256(about + b"\0" + self.content).hexdigest()


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one file. `error` says why it failed."""

    name: str
    id: str
    status: Status
    characters: int = 0
    pages: int = 0
    error: GatewayError | None = None


def check_document_name(name: str) -> None:
    """Raises InvalidBody: a name is shown in lists, logs and answers, and is never a path of ours."""
    if not name.strip() or not name.isprintable() or len(name.encode(errors="surrogatepass")) > LONGEST_NAME:
        raise InvalidBody(
            f"the name of a document is a line of printable characters, {LONGEST_NAME} bytes at most", field="name"
        )
