"""`gateway kb evaluate`: how well a knowledge base finds what it is asked for, by each way of searching it.

A question is a line of JSON: `{"question": "...", "document": "NAME"}`, or `documents` with several names, of which
each is right. Ranks are those of documents: the first passage of one counts.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from gateway.remote import columns

DEPTH: Final = 50  # passages that are asked for; several may be of one document
AMONG: Final = 10  # documents that count
DRAWS: Final = 2000  # of the bootstrap
SIDES: Final = (2.5, 97.5)  # percentiles: of a hundred such intervals, 95 hold the truth
MEASURES: Final = ("hit@1", "hit@5", "hit@10", "MRR@10", "nDCG@10")
WAYS: Final[dict[str, dict[str, Any]]] = {
    "vector": {"hybrid": False},
    "BM25": {"words": True},
    "hybrid": {},
}
BOTH: Final = "hybrid"
RERANKED: Final = "hybrid, reranked"
ROW: Final = 26  # pixels
COLOURS: Final = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1")

Search = Callable[[dict[str, Any]], Sequence[str]]  # a request's body -> the documents of its hits, best first


class Question(msgspec.Struct, frozen=True):
    question: str
    document: str = ""
    documents: tuple[str, ...] = ()

    @property
    def right(self) -> frozenset[str]:
        return frozenset((*self.documents, self.document)) - {""}


class Measure(msgspec.Struct, frozen=True):
    """A mean over the questions, and the interval in which it lies, by a bootstrap over them."""

    mean: float
    low: float
    high: float


Scores = dict[str, list[dict[str, float]]]  # way, question, measure
Report = dict[str, dict[str, Measure]]  # way, measure


def read(path: Path) -> list[Question]:
    """Raises ValueError, which says in which line."""
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            question = msgspec.json.decode(line, type=Question)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if not question.question.strip() or not question.right:
            raise ValueError(f"{path}, line {number}: expected a question, and the document that answers it")
        questions.append(question)
    if not questions:
        raise ValueError(f"{path} has no questions")
    return questions


def evaluate(
    questions: Sequence[Question], search: Search, rerank: str | None, told: Callable[[int, int], None]
) -> Scores:
    """Asks every question in every way."""
    ways = WAYS | ({RERANKED: {"rerank": rerank}} if rerank else {})
    found = {}
    for place, (way, body) in enumerate(ways.items()):
        scores = []
        for number, question in enumerate(questions, start=1):
            asked = {"query": question.question, "limit": DEPTH, **body}
            scores.append(score(list(dict.fromkeys(search(asked))), question.right))
            told(place * len(questions) + number, len(ways) * len(questions))
        found[way] = scores
    return found


def means(scores: Scores) -> Report:
    return {way: {name: measure([each[name] for each in of]) for name in MEASURES} for way, of in scores.items()}


def gains(scores: Scores) -> Report:
    """What the way that is searched by default, and reranking it, have over the others, question by question: an
    interval that leaves 0 out says that it is no chance, which two intervals of means that overlap cannot."""
    ways = list(scores)
    pairs = [(way, other) for place, way in enumerate(ways) for other in ways[:place] if way.startswith(BOTH)]
    return {
        f"{way} - {other}": {
            name: measure([one[name] - two[name] for one, two in zip(scores[way], scores[other], strict=True)])
            for name in MEASURES
        }
        for way, other in pairs
    }


def score(found: Sequence[str], right: frozenset[str]) -> dict[str, float]:
    """Of the different documents that were found, best first."""
    places = [place for place, name in enumerate(found[:AMONG], start=1) if name in right]
    first = places[0] if places else math.inf
    gain = sum(1 / math.log2(1 + place) for place in places)
    best = sum(1 / math.log2(1 + place) for place in range(1, min(AMONG, len(right)) + 1))
    hits = {f"hit@{most}": float(first <= most) for most in (1, 5, 10)}
    return hits | {"MRR@10": 1 / first, "nDCG@10": gain / best}


def measure(scores: Sequence[float]) -> Measure:
    values = np.asarray(scores)
    drawn = np.random.default_rng(0).choice(values, (DRAWS, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, SIDES)
    return Measure(float(values.mean()), float(low), float(high))


def show(report: Report, over: Report, questions: int, generation: str) -> None:
    """A table on standard output, with the differences below."""
    rows: list[Sequence[str]] = [("SEARCH", *MEASURES)]
    rows += [(way, *(_cell(found[name]) for name in MEASURES)) for way, found in report.items()]
    rows += [(way, *(_cell(found[name], "+") for name in MEASURES)) for way, found in over.items()]
    columns(rows)
    print(
        f"{questions} questions, generation {generation}; in brackets 95% intervals of a bootstrap over the questions"
    )


def _cell(found: Measure, sign: str = "") -> str:
    between = " to " if sign else "-"
    return f"{found.mean:{sign}.3f} ({found.low:{sign}.3f}{between}{found.high:{sign}.3f})"


def as_json(report: Report, over: Report, questions: int, generation: str) -> str:
    found = {"ways": msgspec.to_builtins(report), "gains": msgspec.to_builtins(over)}
    return json.dumps({"questions": questions, "generation": generation, **found}, indent=2)


def picture(report: Report, title: str) -> str:
    """An SVG: for each measure a bar for each way, with its interval."""
    parts, top = [], 60
    for name in ("hit@1", "hit@10", "MRR@10", "nDCG@10"):
        parts.append(f'<text x="16" y="{top}" font-weight="bold">{name}</text>')
        for colour, (way, found) in zip(COLOURS, report.items(), strict=False):
            top += ROW
            parts.append(_bar(way, found[name], top, colour))
        top += ROW + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{top}" font-family="sans-serif" font-size="13">'
        f'<rect width="720" height="{top}" fill="white"/><text x="16" y="28" font-size="16">{_escaped(title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def _bar(way: str, found: Measure, top: int, colour: str) -> str:
    left, width = 150, 480
    low, high = left + width * found.low, left + width * found.high
    return (
        f'<text x="16" y="{top}">{_escaped(way)}</text>'
        f'<rect x="{left}" y="{top - 13}" width="{width * found.mean:.1f}" height="17" fill="{colour}"/>'
        f'<path d="M{low:.1f} {top - 4}H{high:.1f}" stroke="black"/>'
        f'<text x="{max(high, left) + 8:.1f}" y="{top}">{found.mean:.3f}</text>'
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def run(
    questions_path: Path, ask: Callable[[dict[str, Any]], Mapping[str, Any]], options: Any, told: Callable[..., None]
) -> int:
    """`ask` sends a search. Exit status: 0 done, 1 the questions cannot be read."""
    try:
        questions = read(questions_path)
    except (OSError, ValueError) as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    seen: set[str] = set()

    def search(body: dict[str, Any]) -> list[str]:
        found = ask(body)
        seen.add(found["generation"])
        return [hit["name"] for hit in found["hits"]]

    scores = evaluate(questions, search, options.rerank, told)
    report, over = means(scores), gains(scores)
    generation = ", ".join(sorted(seen))
    if options.picture:
        Path(options.picture).write_text(picture(report, f"Questions to {options.name}"), encoding="utf-8")
    if options.json:
        print(as_json(report, over, len(questions), generation))
    else:
        show(report, over, len(questions), generation)
    return 0
