"""How far two models see the same texts differently: whether an index of one still serves the queries of the other.

The cosine between the two vectors of each text says whether they can be mixed at all; the overlap of each text's
nearest neighbours says whether they find the same, which also models of different dimensions can be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from trainer.errors import InvalidInput
from trainer.evaluate import Encoder, Vectors, encoder_of, in_chunks, wide

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NEIGHBOURS: Final = 10
ROWS: Final = 256  # texts whose neighbours are looked for at once


@dataclass(frozen=True, slots=True)
class Cosine:
    mean: float
    p5: float  # 5% of the texts are below
    min: float


@dataclass(frozen=True, slots=True)
class Drift:
    """`cosine` is None for models of different dimensions. `overlap` is the mean share of the `k` nearest neighbours
    that both models give a text; 1 is the same neighbours."""

    texts: int
    cosine: Cosine | None
    overlap: float
    k: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def drift(
    a: SentenceTransformer | Encoder | Path | str,
    b: SentenceTransformer | Encoder | Path | str,
    texts: Sequence[str],
    *,
    k: int = NEIGHBOURS,
    batch_size: int = 32,
) -> Drift:
    """Between two models, on the texts as documents. Raises InvalidInput for fewer than two texts."""
    one, other = (in_chunks(encoder_of(m, batch_size).documents, texts, lambda done: None) for m in (a, b))
    return between(one, other, k=k)


def between(one: Vectors, other: Vectors, *, k: int = NEIGHBOURS) -> Drift:
    """Between two models' vectors of the same texts, a row for each text."""
    if len(one) != len(other) or len(one) < 2:
        raise InvalidInput(f"drift is measured on the same two texts or more: {len(one)} and {len(other)} vectors")
    k = min(k, len(one) - 1)
    cosine = None
    if one.shape == other.shape:
        each = np.clip((wide(one) * wide(other)).sum(axis=1), -1, 1)
        cosine = Cosine(float(each.mean()), float(np.percentile(each, 5)), float(each.min()))
    return Drift(len(one), cosine, _overlap(one, other, k), k)


def _overlap(one: Vectors, other: Vectors, k: int) -> float:
    shared, mine, theirs = 0, wide(one), wide(other)
    for start in range(0, len(one), ROWS):
        pairs = zip(_nearest(mine, start, k), _nearest(theirs, start, k), strict=True)
        shared += sum(len(set(row) & set(other_row)) for row, other_row in pairs)
    return shared / (k * len(one))


def _nearest(vectors: NDArray[np.float64], start: int, k: int) -> list[list[int]]:
    """The places of each text's `k` nearest others; of equally near ones the first."""
    near = vectors[start : start + ROWS] @ vectors.T
    rows = np.arange(len(near))
    near[rows, start + rows] = -np.inf
    return [[int(place) for place in row] for row in np.argsort(-near.round(9), axis=1, kind="stable")[:, :k]]
