"""Does a new index find what the old one did? Before it answers anybody, both are asked the same questions.

A question is the heading of a chunk, or the first sentence of it, and the right answer is that chunk, or what the other
index has made of the same part of the document. Nobody has to write such questions, and a model that was broken by its
training fails them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.ask.embedding import embed_query
from gateway.ask.passage import Chunk, Hit, Index
from gateway.ask.store import Store
from gateway.service import Service

QUESTIONS: Final = 32
AMONG: Final = 10  # the hits in which the right one is looked for
WORSE: Final = 0.2  # of the old index's score, from which on the new one is kept back
FEWEST: Final = 4  # questions, with less of them a score says nothing
WORDS: Final = 4  # of a question, at least
SENTENCE: Final = re.compile(r"(?<=[.!?])\s+|\n\s*\n")


class Score(msgspec.Struct, frozen=True):
    """Mean reciprocal ranks of the right answers, between 0 and 1."""

    old: float
    new: float
    questions: int

    @property
    def worse(self) -> bool:
        return self.questions >= FEWEST and self.new < self.old - WORSE

    def __str__(self) -> str:
        return f"{self.new:.2f} where the one before has {self.old:.2f}, over {self.questions} questions"


async def compare(store: Store, service: Service, old: Index, new: Index) -> Score:
    """Raises what embedding does."""
    asked = await _questions(store, new)
    scores = {}
    for index in (old, new):
        ranks = [await _rank(store, service, index, text, right) for text, right in asked]
        scores[index.id] = sum(ranks) / len(ranks) if ranks else 0.0
    return Score(scores[old.id], scores[new.id], len(asked))


async def _questions(store: Store, index: Index) -> list[tuple[str, Chunk]]:
    """Spread evenly over the index, so that every try asks the same."""
    count = await store.count(index)
    places = sorted({place * count // QUESTIONS for place in range(QUESTIONS)}) if count else []
    found = []
    for place in places:
        for chunk in await store.chunks(index, offset=place, limit=1):
            if text := question(chunk):
                found.append((text, chunk))
    return found


def question(chunk: Chunk) -> str:
    """Empty where the chunk gives none: it would be a whole chunk asking for itself."""
    body = chunk.text.strip()
    for text in (chunk.heading, SENTENCE.split(body)[0].strip()):
        if len(text.split()) >= WORDS and text != body:
            return text
    return ""


async def _rank(store: Store, service: Service, index: Index, text: str, right: Chunk) -> float:
    vector = await embed_query(service, index, text)
    return _reciprocal(await store.search(index, vector, None, AMONG), right)


def _reciprocal(hits: Sequence[Hit], right: Chunk) -> float:
    for place, hit in enumerate(hits, start=1):
        chunk = hit.chunk
        if chunk.document == right.document and chunk.start < right.end and right.start < chunk.end:
            return 1 / place
    return 0.0
