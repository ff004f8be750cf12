"""From two orders to one, and exact cosines: what every store does with what its two searches found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RANK: Final = 60  # Cormack, Clarke, Buettcher 2009: how little the very first ranks stand out
DEPTH: Final = 4  # times `limit` is looked at by each of two searches that are fused
AT_LEAST: Final = 50


def fused(*orders: Sequence[str]) -> dict[str, float]:
    """Each id's score by reciprocal ranks, best first; equal scores in the order of the ids."""
    scores: dict[str, float] = {}
    for order in orders:
        for rank, found in enumerate(order, 1):
            scores[found] = scores.get(found, 0.0) + 1 / (RANK + rank)
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


def cosines(vector: NDArray[Any], rows: NDArray[Any]) -> NDArray[np.float64]:
    """Of `vector` [dim] with each of `rows` [n, dim], in [-1, 1]; 0 where one of the two is all zeros."""
    query, table = np.asarray(vector, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(table, axis=1) * np.linalg.norm(query)
    products = np.divide(table @ query, lengths, out=np.zeros(len(table)), where=lengths > 0)
    clipped: NDArray[np.float64] = np.clip(products, -1.0, 1.0)
    return clipped


def depth(limit: int) -> int:
    """So many are looked at by each of two searches that are fused."""
    return max(DEPTH * limit, AT_LEAST)
