"""What an answer rests on: passages that were found and files that were sent, numbered as answers cite them.

They are data. Nothing in them is carried out by any code: they are shown, quoted, and handed on between marks that they
cannot close.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.ask.passage import Hit


class File(msgspec.Struct, frozen=True):
    """A text that a client sends with its question."""

    name: str
    content: str


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """Cited as `[number]`. `text` lies at `start` to `end` of its document, or of its file, which has no `document`;
    `text[a:b]` is at `start + a` there."""

    number: int
    id: str
    text: str
    name: str
    source: str
    document: str | None = None
    page: int | None = None
    index: int = 0
    start: int = 0
    end: int = 0
    cosine: float | None = None

    @property
    def is_file(self) -> bool:
        return self.document is None


def of(hits: Sequence[Hit], files: Sequence[File] = ()) -> tuple[Ground, ...]:
    """The passages, best first, and the files behind them."""
    passages = [_of_hit(number, hit) for number, hit in enumerate(hits, 1)]
    return (*passages, *(_of_file(number, file) for number, file in enumerate(files, len(passages) + 1)))


def _of_hit(number: int, hit: Hit) -> Ground:
    chunk = hit.chunk
    return Ground(
        number=number,
        id=chunk.id,
        text=chunk.text,
        name=hit.name,
        source=hit.source or hit.name,
        document=chunk.document,
        page=chunk.page,
        index=chunk.index,
        start=chunk.start,
        end=chunk.end,
        cosine=hit.cosine,
    )


def _of_file(number: int, file: File) -> Ground:
    return Ground(
        number=number,
        id=f"file:{file.name}",
        text=file.content,
        name=file.name,
        source=file.name,
        end=len(file.content),
    )
