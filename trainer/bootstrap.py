"""How sure one may be of a score: intervals by resampling the queries.

The queries that we have are one draw of those that people ask; drawing from them again and again shows how far a mean
moves by that luck alone. Two models are compared query by query (paired), so that hard and easy queries cancel out.
Seeded: the same scores give the same interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainer.errors import InvalidInput
from trainer.scores import Scores

ROUNDS: Final = 10_000
INTERVAL: Final = (2.5, 97.5)  # percentiles: 95%
CELLS: Final = 2_000_000  # of drawn counts in memory at once


@dataclass(frozen=True, slots=True)
class Difference:
    """After minus before: the mean over queries, its 95% interval, and the two-sided p of there being none."""

    mean: float
    low: float
    high: float
    p: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def paired(before: Scores, after: Scores, metric: str, *, seed: int = 0) -> Difference:
    """Raises InvalidInput when the two are not of the same questions."""
    if before.questions != after.questions or len(before.each_query) != len(after.each_query):
        raise InvalidInput(
            "the two scores are of different questions, so they cannot be compared: "
            f"{len(before.each_query)} queries over {before.documents} documents, and "
            f"{len(after.each_query)} over {after.documents}; evaluate both on the same data"
        )
    return of_changes(after.each(metric) - before.each(metric), seed=seed)


def of_changes(change: NDArray[np.float64], *, seed: int = 0) -> Difference:
    """Of the changes of each of the same questions."""
    drawn = _means(change, seed)
    low, high = np.percentile(drawn, INTERVAL)
    # plus one: what never happened in so many draws may still happen in one more
    tail = (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / (len(drawn) + 1)
    return Difference(float(change.mean()), float(low), float(high), float(min(1.0, 2 * tail)))


def interval(scores: Scores, metric: str, *, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of one model's score."""
    low, high = np.percentile(_means(scores.each(metric), seed), INTERVAL)
    return float(low), float(high)


def _means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Means of as many draws with replacement as there are values. How often each *distinct* value is drawn is all
    that counts, and a rank has few."""
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(seed)
    chances = counts / len(values)
    return np.concatenate(
        [generator.multinomial(len(values), chances, size=rounds) @ distinct for rounds in _rounds(len(distinct))]
    ) / len(values)


def _rounds(width: int) -> Iterator[int]:
    left, most = ROUNDS, max(1, CELLS // width)
    while left > 0:
        yield min(left, most)
        left -= most
