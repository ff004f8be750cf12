"""A document to the chunks that a model will embed, in the process that reads documents."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.ask.chunks import Chunking
from gateway.ask.parser import Parser
from gateway.ask.passage import Chunk, Document, Page, chunk_id
from gateway.model import Generation


class DocumentCutter:
    """By the tokens of the model, with what the model puts around a text left room for."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser

    def label(self, generation: Generation) -> str:
        """Equal for generations that cut alike: `Index.chunking`."""
        return Chunking.of(generation).label

    async def cut(self, generation: Generation, document: Document) -> list[Chunk]:
        """All chunks, in order; laid over each other they are the document. Raises DocumentUnreadable."""
        pieces = await self._parser.cut(document.name, document.text, Chunking.of(generation))
        return [
            Chunk(
                id=chunk_id(document.id, number),
                document=document.id,
                index=number,
                start=start,
                end=end,
                text=document.text[start:end],
                page=page_at(document.pages, start + blank(document.text[start:end])),
                heading=heading,
            )
            for number, ((start, end), heading) in enumerate(zip(pieces.spans, pieces.headings, strict=True))
        ]


def blank(text: str) -> int:
    """Characters of white space that it begins with."""
    return len(text) - len(text.lstrip())


def page_at(pages: Sequence[Page], place: int) -> int | None:
    """The number of the page that a place in the text is on."""
    return next((page.number for page in pages if page.start <= place < page.end), None)
