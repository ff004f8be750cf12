"""How well a model finds what answers: from the rank of every right document of every query, any metric at any depth.

Ranks count from 1. Documents that are equally near are ranked against the model: the wrong ones stand first, so a
model that gives one vector for everything scores worst, and never by luck.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainer.errors import InvalidInput

Ranks = tuple[int, ...]
METRICS: Final = ("mrr@10", "hit@1", "hit@10", "ndcg@10", "recall@10", "map@100")  # what a run writes down
METRIC: Final = re.compile(r"(mrr|hit|ndcg|recall|precision|map)(?:@([1-9]\d{0,8}))?")
OLDER_NAMES: Final = {"accuracy": "hit"}
SHOWN: Final = 300  # characters of a text that are kept to be read


@dataclass(frozen=True, slots=True)
class Scored:
    """One query: where its right documents came, ascending, and the texts that a person wants to see."""

    query: str
    ranks: Ranks
    answer: str  # the right document that came first
    found: str  # the document that came first


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one model on one set of questions, named by its digest."""

    questions: str
    documents: int
    each_query: tuple[Scored, ...]
    unanswered: int = 0

    def of(self, metric: str) -> float:
        """The mean over the queries, such as `.of("mrr@10")`."""
        return float(self.each(metric).mean())

    def each(self, metric: str) -> NDArray[np.float64]:
        """One value for each query, in their order."""
        kind, depth = parsed(metric)
        value, cut = VALUES[kind], depth or self.documents
        return np.array([value(scored.ranks, cut) for scored in self.each_query], dtype=np.float64)

    def summary(self, metrics: Sequence[str] = METRICS) -> dict[str, float]:
        return {metric: self.of(metric) for metric in metrics}

    def to_json(self) -> dict[str, Any]:
        each = [
            {"query": s.query, "ranks": list(s.ranks), "answer": s.answer, "found": s.found} for s in self.each_query
        ]
        counts = {"queries": len(each), "documents": self.documents, "unanswered": self.unanswered}
        return {"questions": self.questions, **counts, "metrics": self.summary(), "each_query": each}

    @staticmethod
    def from_json(document: Any) -> Scores:
        """Raises InvalidInput for anything that `to_json` did not make."""
        try:
            each = tuple(_scored(entry) for entry in document["each_query"])
            read = Scores(str(document["questions"]), int(document["documents"]), each, int(document["unanswered"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"these are no scores of ours: {type(error).__name__} {error}") from error
        if not each:
            raise InvalidInput("these scores are of no query at all")
        return read


def _scored(entry: Any) -> Scored:
    ranks = tuple(int(rank) for rank in entry["ranks"])
    if not ranks or ranks[0] < 1 or any(one >= other for one, other in pairwise(ranks)):
        raise ValueError(f"ranks {list(ranks)}")
    return Scored(str(entry["query"]), ranks, str(entry["answer"]), str(entry["found"]))


def parsed(metric: str) -> tuple[str, int | None]:
    """`mrr@10` -> its kind and depth; without a depth, everything counts. Raises InvalidInput for an unknown one."""
    kind, at, depth = metric.strip().lower().partition("@")
    matched = METRIC.fullmatch(OLDER_NAMES.get(kind, kind) + at + depth)
    if not matched:
        raise InvalidInput(
            f"{metric!r}: no such metric; there are mrr@K, hit@K, ndcg@K, recall@K, precision@K and map@K"
        )
    return matched[1], int(matched[2]) if matched[2] else None


def named(metric: str) -> str:
    """The one spelling of a metric. Raises InvalidInput for an unknown one."""
    kind, depth = parsed(metric)
    return f"{kind}@{depth}" if depth else kind


def shown(text: str) -> str:
    """As much of a text as a person wants to read."""
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _within(ranks: Ranks, depth: int) -> Ranks:
    return tuple(rank for rank in ranks if rank <= depth)


def _mrr(ranks: Ranks, depth: int) -> float:
    return 1 / ranks[0] if ranks[0] <= depth else 0.0


def _hit(ranks: Ranks, depth: int) -> float:
    return float(ranks[0] <= depth)


def _recall(ranks: Ranks, depth: int) -> float:
    return len(_within(ranks, depth)) / len(ranks)


def _precision(ranks: Ranks, depth: int) -> float:
    return len(_within(ranks, depth)) / depth


def _ndcg(ranks: Ranks, depth: int) -> float:
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(ranks), depth) + 1))
    return sum(1 / math.log2(rank + 1) for rank in _within(ranks, depth)) / best


def _map(ranks: Ranks, depth: int) -> float:
    found = _within(ranks, depth)
    return sum(number / rank for number, rank in enumerate(found, 1)) / min(len(ranks), depth)


VALUES: Final[dict[str, Callable[[Ranks, int], float]]] = {
    "mrr": _mrr,
    "hit": _hit,
    "ndcg": _ndcg,
    "recall": _recall,
    "precision": _precision,
    "map": _map,
}
