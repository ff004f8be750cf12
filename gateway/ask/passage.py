"""The nouns of knowledge bases: documents, the chunks they are cut into, and the indexes that vectors lie in.

A document is stored once and belongs to no model. Vectors belong to an index, and an index to exactly one generation of
one embedding model.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from gateway.errors import InvalidBody
from gateway.model import NAME

Value = str | int | float | bool
ID_DIGITS: Final = 32
RESERVED: Final = frozenset({"list", "count", "sample", "docs"})  # `/kb/list` and the like are an earlier system's


class Page(msgspec.Struct, frozen=True):
    """A page of a document: `text[start:end]`. `number` is what the page is called in its file, counted from 1."""

    number: int
    start: int
    end: int


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What was put in. `id` is `document_id(name)`, so that the same name replaces. `text` was normalised before any
    offset was counted; `source` is where it came from, for people; `digest` is of what was read, so that equal digests
    need no work; `added` is in seconds since 1970."""

    id: str
    name: str
    source: str
    text: str
    pages: tuple[Page, ...] = ()
    metadata: dict[str, Value] = {}
    digest: str
    added: float


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A document without its text, for listings."""

    id: str
    name: str
    source: str
    metadata: dict[str, Value] = {}
    digest: str
    added: float
    characters: int
    pages: int

    @classmethod
    def of(cls, document: Document) -> Head:
        return cls(
            id=document.id,
            name=document.name,
            source=document.source,
            metadata=document.metadata,
            digest=document.digest,
            added=document.added,
            characters=len(document.text),
            pages=len(document.pages),
        )


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a document: `document.text[start:end] == text`, always. `id` is `chunk_id(document, index)`; `index`
    counts the document's chunks from 0; `page` is that of its beginning, None where the document has none."""

    id: str
    document: str
    index: int
    start: int
    end: int
    text: str
    page: int | None = None
    heading: str = ""


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that a search found. `cosine` is in [-1, 1], exact, and None where the search had no vector; `bm25` is
    None where the text did not find it. `fused` orders the hits of one search, and means nothing beyond it."""

    chunk: Chunk
    name: str
    source: str
    metadata: dict[str, Value] = {}
    cosine: float | None = None
    bm25: float | None = None
    fused: float = 0.0


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """What hits must have: of each field that is given, one of its values. Numbers are equal by value (1 and 1.0),
    and equal neither to texts nor to booleans."""

    metadata: dict[str, Value | tuple[Value, ...]] = {}
    documents: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors of `dim` numbers, made by exactly one `generation` of `model`. `chunking` says how the documents were
    cut: equal strings mean equal cuts. `made` is in seconds since 1970."""

    id: str
    kb: str
    model: str
    generation: str
    dim: int
    chunking: str = ""
    made: float = 0.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """All that says what a knowledge base answers with, read in one piece. `kb` is its key in the store; `live`
    answers, None before the first index; `previous` can be rolled back to, newest first; `version` grows with every
    change."""

    kb: str
    live: Index | None = None
    previous: tuple[Index, ...] = ()
    version: int = 1
    owner: str = ""
    embedding_model: str = ""

    @property
    def name(self) -> str:
        """What its owner calls it."""
        return self.kb.rpartition("/")[2]

    def switched(self, live: Index, embedding_model: str | None = None) -> Row:
        """The row after a switch to `live`."""
        earlier = (() if self.live is None else (self.live,)) + self.previous
        return msgspec.structs.replace(
            self,
            live=live,
            previous=tuple(index for index in earlier if index.id != live.id),
            version=self.version + 1,
            embedding_model=self.embedding_model if embedding_model is None else embedding_model,
        )

    def without(self, index: Index) -> Row:
        """The row once `index` cannot be rolled back to; else the same row. ValueError if it is live."""
        if self.live is not None and self.live.id == index.id:
            raise ValueError(f"index {index.id} is live")
        kept = tuple(earlier for earlier in self.previous if earlier.id != index.id)
        if kept == self.previous:
            return self
        return msgspec.structs.replace(self, previous=kept, version=self.version + 1)


class Claim(msgspec.Struct, frozen=True):
    """Who may build an index of a knowledge base: nobody, while `holder` is empty. `beat` grows with every change, and
    never goes back: one that was seen twice has not moved between."""

    holder: str = ""
    beat: int = 0


def check_name(name: str) -> None:
    """Of a knowledge base that is, or is to be, whichever way it is named. Raises InvalidBody."""
    if name in RESERVED:
        raise InvalidBody(f"`{name}` is a route, and no knowledge base can have its name", field="name")
    if not NAME.fullmatch(name):
        raise InvalidBody(
            "the name of a knowledge base begins with a letter or digit, has only letters, digits, '.', '_' and '-', "
            "and at most 128 of them",
            field="name",
        )


def key(owner: str, name: str) -> str:
    """The key of a knowledge base, different for each owner; `name` has no slash. Without API keys the owner is ""."""
    return f"{owner}/{name}"


def document_id(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:ID_DIGITS]


def chunk_id(document: str, index: int) -> str:
    return f"{document}:{index}"
