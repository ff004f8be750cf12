"""Citations in an answer, checked: each `[n]` names a passage that was there, and shares words with it.

A number that names none is dropped. That words are shared is no proof of truth; that none are is worth a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Final

import msgspec

from gateway.ask import sentences
from gateway.ask.grounds import Ground
from gateway.ask.sentences import Span

MARK: Final = re.compile(r"\[(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\]")
MOST: Final = 200  # of one answer
LOOKED_AT: Final = 100_000  # characters of a passage or file
REMEMBERED: Final = 4_000  # characters of the longest ground whose sentences are kept
KNOWN: Final = 1_000  # of them
SHARED: Final = 0.2  # of a statement's words, from which on it counts as supported


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """`answer[start:end]` is the statement, and `ground.text[quote_start:quote_end]` what it rests on; `overlap` is the
    share of the statement's words that the passage has too."""

    ground: Ground
    start: int
    end: int
    quote_start: int
    quote_end: int
    overlap: float

    @property
    def quote(self) -> str:
        return self.ground.text[self.quote_start : self.quote_end]


def find(answer: str, grounds: Sequence[Ground]) -> list[Citation]:
    """In the order of the answer."""
    known = {ground.number: ground for ground in grounds}
    marks = islice(((span, number) for span, number in _marks(answer) if number in known), MOST)
    return [_cited(answer, span, known[number]) for span, number in marks]


def supported(citations: Sequence[Citation]) -> bool:
    return any(citation.overlap >= SHARED for citation in citations)


def _marks(answer: str) -> Iterator[tuple[Span, int]]:
    """Each number with the statement that it stands behind."""
    spans, last, said = sentences.split(answer), 0, None
    for mark in MARK.finditer(answer):
        while last < len(spans) and spans[last][0] < mark.start():
            start, end = spans[last]
            if _bare(answer[start : min(end, mark.start())]):
                said = start, min(end, mark.start())
            if end > mark.start():
                break  # more of this one may stand behind the mark
            last += 1
        if said is not None:
            for number in re.findall(r"\d+", mark[1]):
                yield said, int(number)


def _cited(answer: str, span: Span, ground: Ground) -> Citation:
    start, end = span
    end = start + len(MARK.sub(lambda mark: " " * len(mark[0]), answer[start:end]).rstrip())
    statement = MARK.sub("", answer[start:end])
    wanted = sentences.words(statement)
    parts = _parts(ground.text) if len(ground.text) <= REMEMBERED else _cut(ground.text)
    shared = [wanted & words for _, words in parts]
    best, _ = parts[max(range(len(parts)), key=lambda place: len(shared[place]))]
    return Citation(
        ground=ground,
        start=start,
        end=end,
        quote_start=best[0],
        quote_end=best[1],
        overlap=round(len(set[str]().union(*shared)) / len(wanted), 3) if wanted else 0.0,
    )


def _cut(text: str) -> tuple[tuple[Span, frozenset[str]], ...]:
    """The sentences of a ground, each with what it is about."""
    parts = sentences.split(text[:LOOKED_AT]) or [(0, len(text))]
    return tuple((part, frozenset(sentences.words(text[slice(*part)]))) for part in parts)


_parts: Final = lru_cache(KNOWN)(_cut)  # what is found is found again


def _bare(statement: str) -> str:
    """Its text without the marks in it."""
    return MARK.sub("", statement).strip(" .;,\n")
