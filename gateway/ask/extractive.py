"""Answers without a language model: the sentences of the passages that answer best, quoted, each with its citation.

Every quotation is a part of the passage that it cites, to the character, because it is cut out of it. Where no sentence
comes close the answer is that nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.ask import sentences
from gateway.ask.citations import Citation
from gateway.ask.grounds import Ground
from gateway.ask.store import Vectors

UNKNOWN: Final = "I don't know: nothing that was found answers this."
MOST: Final = 3  # sentences
LOOKED_AT: Final = 128  # sentences, of the best passages first
LONGEST: Final = 100_000  # characters of one passage or file that are looked at
NEAR: Final = 0.75  # of the best sentence's cosine, below which others do not join it
WEIGHT: Final = 0.7  # how well a sentence answers, against how much it repeats
SAME: Final = 0.92  # the cosine from which on two sentences say the same

EmbedQuery = Callable[[str], Awaitable[Vectors]]
EmbedTexts = Callable[[Sequence[str]], Awaitable[Vectors]]


class Sentence(msgspec.Struct, frozen=True):
    """`ground.text[start:end]`."""

    ground: Ground
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.ground.text[self.start : self.end]


class Extract(msgspec.Struct, frozen=True):
    text: str
    citations: tuple[Citation, ...] = ()


async def answer(
    query: str, grounds: Sequence[Ground], threshold: float, embed_query: EmbedQuery, embed_texts: EmbedTexts
) -> Extract:
    """`embed_query` makes [dim] and `embed_texts` [n, dim], unit vectors of one generation. `threshold` is a cosine."""
    found = candidates(grounds)
    if not found:
        return Extract(UNKNOWN)
    vector, vectors = await asyncio.gather(embed_query(query), embed_texts([sentence.text for sentence in found]))
    return quoted([found[place] for place in choose(vectors @ vector, vectors, threshold)])


def candidates(grounds: Sequence[Ground]) -> list[Sentence]:
    """Those that could answer; what stands in two passages, whose ends overlap, is looked at once."""
    found: dict[str, Sentence] = {}
    for ground in grounds:
        for start, end in sentences.statements(ground.text[:LONGEST]):
            sentence = Sentence(ground, start, end)
            found.setdefault(" ".join(sentence.text.split()), sentence)
            if len(found) == LOOKED_AT:
                return list(found.values())
    return list(found.values())


def choose(relevance: NDArray[np.float32], vectors: Vectors, threshold: float) -> list[int]:
    """Places of the sentences to quote, by maximal marginal relevance; none where the best is below the threshold."""
    best = float(relevance.max())
    if best < threshold:
        return []
    near = max(threshold, NEAR * best)
    left = [place for place in np.argsort(-relevance, kind="stable").tolist() if relevance[place] >= near]
    chosen: list[int] = []
    while left and len(chosen) < MOST:
        repeated = vectors[left] @ vectors[chosen].T if chosen else np.zeros((len(left), 1), dtype=np.float32)
        worth = WEIGHT * relevance[left] - (1 - WEIGHT) * repeated.max(axis=1)
        place = left[int(worth.argmax())]
        chosen.append(place)
        left = [each for each in left if each != place and float(vectors[each] @ vectors[place]) < SAME]
    return chosen


def quoted(chosen: Sequence[Sentence]) -> Extract:
    """The answer, in quotation marks and with citations."""
    if not chosen:
        return Extract(UNKNOWN)
    text, citations = "", []
    for sentence in chosen:
        text += "\n“" if text else "“"
        citations.append(
            Citation(
                ground=sentence.ground,
                start=len(text),
                end=len(text) + len(sentence.text),
                quote_start=sentence.start,
                quote_end=sentence.end,
                overlap=1.0,
            )
        )
        text += f"{sentence.text}” [{sentence.ground.number}]"
    return Extract(text, tuple(citations))
