"""Where sentences lie in a text: spans, so that what is quoted is the text's own, to the character."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

Span = tuple[int, int]
BREAK: Final = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+•]|\d+[.)]|#{1,6})\s)|(?<=\n)(?=#{1,6}\s)|(?<=[。！？])")
STOP: Final = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?=\s)")
SHORT: Final = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|al|etc|approx|fig|figs|eq|eqs|ref|refs|sec|no|vol|pp|dr|mr|mrs|ms|prof|st|ca|resp)"
    r"|\b[A-Z])\.$",
    re.IGNORECASE,
)
WORD: Final = re.compile(r"[^\W_]+")
WIDE: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
HEADING: Final = re.compile(r"#{1,6}\s")
HEADING_LINE: Final = re.compile(r"^#{1,6}\s[^\n]*\n", re.MULTILINE)  # what follows may begin on the next line
FEWEST_WORDS: Final = 4
FEWEST_WIDE: Final = 6  # characters, in scripts that set no spaces


def split(text: str) -> list[Span]:
    """Every sentence, without the space around it. Together they are all of the text but space."""
    found, start = [], 0
    for end in _ends(text):
        if span := _trimmed(text, start, end):
            found.append(span)
        start = end
    return found


def statements(text: str) -> list[Span]:
    """The sentences that could answer something: no headings, questions or scraps."""
    return [(start, end) for start, end in split(text) if _states(text[start:end])]


def words(text: str) -> set[str]:
    """What a sentence is about, roughly: its words of three letters and more, and single characters of scripts that set
    no spaces."""
    found = {word for word in WORD.findall(text.casefold()) if len(word) > 2 and not WIDE.search(word)}
    return found | set(WIDE.findall(text))


def _ends(text: str) -> Iterator[int]:
    """Where sentences end, in order, the end of the text last."""
    stops = {found.end() for found in STOP.finditer(text) if not _goes_on(text, found)}
    breaks = {found.end() for pattern in (BREAK, HEADING_LINE) for found in pattern.finditer(text)}
    yield from sorted(stops | breaks | {len(text)})


def _goes_on(text: str, stop: re.Match[str]) -> bool:
    """A full stop behind an abbreviation or an initial ends nothing, nor does one before a small letter."""
    after = text[stop.end() : stop.end() + 8].lstrip()[:1]
    before = text[max(0, stop.start() - 12) : stop.start() + 1]
    return stop[0] == "." and (after.islower() or (SHORT.search(before) is not None and not _line_ends(text, stop)))


def _line_ends(text: str, stop: re.Match[str]) -> bool:
    return text[stop.end() : stop.end() + 2] == "\n\n"


def _trimmed(text: str, start: int, end: int) -> Span | None:
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    end -= len(part) - len(part.rstrip())
    return (start, end) if start < end else None


def _states(sentence: str) -> bool:
    if HEADING.match(sentence) or sentence.rstrip("\"'”’»)").endswith(("?", "？")):
        return False
    return len(WORD.findall(sentence)) >= FEWEST_WORDS or len(WIDE.findall(sentence)) >= FEWEST_WIDE
