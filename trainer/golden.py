"""Golden vectors: texts, and the vectors that a model had for them when it was made.

They go with the model, in `model_metadata.json`. Whoever copies, converts or serves it can tell whether it
still answers as it did; the gateway refuses a model that does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from trainer.errors import QualityGate

# nobody's data: what is published with a model tells nothing of what it was trained on
TEXTS: Final = (
    "a sentence",
    "How is a beam of light stored?",
    "The invoice was paid on the third of March.",
    "Restart the service after the configuration has changed, and look at its log for errors.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.",
    "SELECT name FROM models WHERE state = 'loaded' ORDER BY used DESC;",
    "Wie lange dauert die Lieferung nach Österreich?",
    "To be whole is one thing, and to load is another. A directory may load with half of its files missing, and then "
    "it answers every question with great confidence and little sense, which is worse than an error that is read.",
)
LEAST_COSINE: Final = 0.999  # as the gateway asks for
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Golden:
    """`vectors` has one row for each text."""

    texts: tuple[str, ...]
    vectors: Matrix

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Golden | None:
        """What a model's metadata says, or None where it says nothing that can be compared."""
        try:
            told = metadata["golden"]
            texts, rows = tuple(map(str, told["texts"])), np.asarray(told["vectors"], dtype=np.float32)
        except (KeyError, TypeError, ValueError):
            return None
        return cls(texts, rows) if texts and rows.ndim == 2 and len(rows) == len(texts) else None

    def to_json(self) -> dict[str, Any]:
        return {"texts": list(self.texts), "vectors": [[float(f"{x:.8g}") for x in row] for row in self.vectors]}


def check(made: Matrix, texts: Sequence[str]) -> None:
    """Raises QualityGate for what no model should answer: not finite, zero, or the same whatever is asked."""
    if made.ndim != 2 or len(made) != len(texts):
        raise QualityGate(f"the model answers {len(texts)} texts with an array of {made.shape}")
    if not np.isfinite(made).all():
        raise QualityGate("the model answers with numbers that are not finite")
    if not (np.abs(made).sum(axis=1) > 0).all():
        raise QualityGate("the model answers a text with nothing but zeros")
    if len(made) > 1 and float(np.ptp(made, axis=0).max()) == 0:
        raise QualityGate("the model answers all texts with the same vector")


def compare(made: Matrix, golden: Golden, least: float = LEAST_COSINE) -> float:
    """The lowest cosine. Raises QualityGate where it is less than `least`, or the dimension is another."""
    if made.shape != golden.vectors.shape:
        raise QualityGate(f"the model makes {made.shape[1]} numbers, and made {golden.vectors.shape[1]} before")
    found = cosines(made, golden.vectors)
    worst = int(found.argmin())
    if found[worst] < least:
        raise QualityGate(
            f"the model does not answer as it did when it was made: text {worst} has a cosine of {found[worst]:.4f} "
            f"to the vector that was recorded, and {least} is asked for"
        )
    return float(found[worst])


def cosines(one: Matrix, other: Matrix) -> npt.NDArray[np.float64]:
    """Row by row; 0 where a row is zero or not finite."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(all="ignore"):
        found: npt.NDArray[np.float64] = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.where(np.isfinite(found), found, 0.0)
