"""What is swapped: small models of one name, and what is true of each, found without the gateway's host.

The vectors come from sentence-transformers and the generations from a store of our own, so an answer can be held
to both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gateway.volume.generations import Store
from gateway.volume.source import scan
from tests import making

TEXTS: Final = (
    "the beam is stored in the ring",
    "a query for the log",
    "x-ray undulator light",
    "the vacuum alarm",
    "shift energy current",
)
CLOSE: Final = 1e-4  # the largest difference of two computations of one vector
APART: Final = 1e-1  # the least distance between vectors of two contents, lest one pass for another


@dataclass(frozen=True, slots=True)
class Content:
    """`vectors` has a row for each of TEXTS; `generation` as answers name it."""

    path: Path
    digest: str
    vectors: npt.NDArray[np.float32]

    @property
    def generation(self) -> str:
        return self.digest[:12]

    def made(self, vectors: npt.NDArray[np.float32], texts: Sequence[int]) -> bool:
        """Whether these are its vectors of TEXTS[texts]."""
        truth = self.vectors[list(texts)]
        return vectors.shape == truth.shape and bool(np.abs(vectors - truth).max() <= CLOSE)


def make(folder: Path, count: int, **sizes: Any) -> list[Content]:
    """`count` contents of equal shape; `sizes` as `tests.making.encoder` takes them."""
    for number in range(count):
        making.encoder(folder / "contents" / f"c{number}", seed=1000 + number, **sizes)
    store = Store(str(folder / "truth"))
    found = sorted(scan(str(folder)).directories.values(), key=lambda directory: directory.path)
    contents = [
        Content(Path(directory.path), store.accept(directory, str(folder)).digest, _vectors(directory.path))
        for directory in found
    ]
    assert len(contents) == count, found
    _demand_distance(contents)
    return contents


def _vectors(path: str) -> npt.NDArray[np.float32]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.disable_progress_bar()
    vectors: npt.NDArray[np.float32] = SentenceTransformer(path, device="cpu").encode(list(TEXTS))
    return vectors


def _demand_distance(contents: Sequence[Content]) -> None:
    for number, one in enumerate(contents):
        for other in contents[:number]:
            least = float(np.linalg.norm(one.vectors - other.vectors, axis=1).min())
            assert least > APART, f"{one.path} and {other.path} are too alike: {least}"
