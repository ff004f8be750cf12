"""Texts that are nearly the same: MinHash finds candidates, and the true overlap of their shingles decides.

MinHash: Broder, "On the resemblance and containment of documents" (1997); bands: Leskovec, Rajaraman, Ullman, "Mining
of Massive Datasets", 3.4. With 16 bands of 6 rows a pair of overlap 0.85 is missed once in 2,000, and one of 0.5 is
looked at in one of five cases.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.data.normal import normal

ALIKE: Final = 0.85  # the Jaccard overlap of shingles from which texts count as the same
WIDTH: Final = 4  # characters of a shingle
BANDS, ROWS = 16, 6
LOOKED_AT: Final = 32  # candidates of one band; a bucket of more holds boilerplate

Hashes = npt.NDArray[np.uint64]
_random: Final = np.random.default_rng(20_11)
_FACTORS: Final = _random.integers(1, 2**63, (BANDS * ROWS, 1), np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS: Final = _random.integers(0, 2**63, (BANDS * ROWS, 1), np.uint64)


def shingles(text: str) -> Hashes:
    """The hashes of every run of four characters, each once, sorted. A shorter text is one shingle."""
    points = np.frombuffer((normal(text) or " ").encode("utf-32-le"), np.uint32).astype(np.uint64)
    width = max(1, min(WIDTH, len(points)))
    mixed = np.zeros(len(points) - width + 1, np.uint64)
    for offset in range(width):
        mixed = _mix(mixed * np.uint64(31) + points[offset : offset + len(mixed)])
    return np.unique(mixed)


def _mix(values: Hashes) -> Hashes:
    """The finisher of splitmix64: every bit of the input reaches every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def overlap(one: Hashes, other: Hashes) -> float:
    """Jaccard: shared shingles, as a share of all."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(1, len(one) + len(other) - shared)


class Near:
    """A row is a few texts, such as a query and an answer; it is near another when each of its texts is."""

    def __init__(self, alike: float = ALIKE) -> None:
        self._alike = alike
        self._kept: list[tuple[str, ...]] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = {}

    def find(self, *texts: str) -> int | None:
        """The number of a kept row that is near this one."""
        parts = [shingles(text) for text in texts]
        return self._find(parts, _buckets(parts))

    def find_or_keep(self, *texts: str) -> int | None:
        """The number of a kept row that is near this one; None where there is none: then this one is kept too."""
        parts = [shingles(text) for text in texts]
        buckets = _buckets(parts)
        found = self._find(parts, buckets)
        if found is None:
            for bucket in buckets:
                self._buckets.setdefault(bucket, []).append(len(self._kept))
            self._kept.append(texts)
        return found

    def _find(self, parts: list[Hashes], buckets: list[tuple[int, bytes]]) -> int | None:
        candidates = dict.fromkeys(index for bucket in buckets for index in self._buckets.get(bucket, [])[:LOOKED_AT])
        return next((index for index in candidates if self._is_near(parts, index)), None)

    def _is_near(self, parts: list[Hashes], index: int) -> bool:
        others = (shingles(text) for text in self._kept[index])
        return all(overlap(part, other) >= self._alike for part, other in zip(parts, others, strict=True))


def _buckets(parts: list[Hashes]) -> list[tuple[int, bytes]]:
    together = np.concatenate([_mix(part + np.uint64(place)) for place, part in enumerate(parts)])
    least = (together * _FACTORS + _OFFSETS).min(axis=1).reshape(BANDS, ROWS)
    return [(band, row.tobytes()) for band, row in enumerate(least)]
