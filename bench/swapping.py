"""Texts of many adapters of an encoder in one process and one thread: ours in one call, and sentence-transformers with
one adapter at a time, a batch for each.

Of the library there are two: all adapters are in memory and `set_adapter` changes the active one; or one is, and each
is loaded from its files and let go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from bench.rounds import Cell, Figures, Measure, interleaved
from bench.setting import Setting
from bench.spoken import judged
from bench.texts import of_tokens

TOGETHER: Final = "Dropgate, one call"
ACTIVE: Final = "peft, `set_adapter`"
LOADED: Final = "peft, one loaded at a time"
CELL: Final = "in one process"
EACH: Final = 2  # texts of an adapter
TOKENS: Final = 16
NEAR: Final = 0.9999  # cosine

Vectors = npt.NDArray[np.float32]
Batches = Sequence[tuple[int, list[str]]]  # of an adapter, by its number, its texts


def run(setting: Setting, volume: Path, base: str, names: Sequence[str]) -> dict[str, Cell]:
    """A cell of all sides. Raises RuntimeError where their vectors differ."""
    paths = [str(volume / name) for name in names]
    batches = [(number, of_tokens(TOKENS, EACH, seed=number)) for number in range(len(paths))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, library = Ours(volume, str(volume / base), paths), Library(str(volume / base), paths)
        _alike(ours.together(batches), library.active(batches))
        sides: dict[str, Measure] = {
            TOGETHER: partial(_timed, ours.together, batches),
            ACTIVE: partial(_timed, library.active, batches),
            LOADED: partial(_timed, library.loaded, batches),
        }
        return interleaved({CELL: sides}, setting.rounds)
    finally:
        torch.set_num_threads(threads)


class Ours:
    """As a host does it: tokenized, and embedded in one call."""

    def __init__(self, volume: Path, base: str, paths: Sequence[str]) -> None:
        from gateway.host import factors, runtimes
        from gateway.host.adapted import Adapter
        from gateway.host.tokenize import Tokenizer
        from gateway.wish import Wish

        below = judged(volume, base)
        chosen = runtimes.load(below, Wish("torch", "float32"), "cpu")
        self._encoder: Any = chosen.runtime
        self._words = Tokenizer(below)
        self._adapters = []
        for path in paths:
            generation = judged(volume, path, below)
            lora = factors.read(generation, torch.float32)
            self._adapters.append(Adapter(generation, lora, None, self._words, chosen.numerics))

    def together(self, batches: Batches) -> Vectors:
        from gateway.host import adapted

        rows = self._words.encode([text for _, batch in batches for text in batch])
        owners = [self._adapters[number] for number, batch in batches for _ in batch]
        return adapted.embed(self._encoder, rows, [0] * len(rows), owners)


class Library:
    """sentence-transformers with peft."""

    def __init__(self, base: str, paths: Sequence[str]) -> None:
        import transformers
        from sentence_transformers import SentenceTransformer

        transformers.logging.set_verbosity_error()  # it tells at length, with each adapter, that the base is not in it
        self._paths = paths
        self._holds_all: Any = SentenceTransformer(base, device="cpu")
        self._holds_one: Any = SentenceTransformer(base, device="cpu")
        for number, path in enumerate(paths):
            self._holds_all.load_adapter(path, adapter_name=str(number))

    def active(self, batches: Batches) -> Vectors:
        found = []
        for number, batch in batches:
            self._holds_all.set_adapter(str(number))
            found.append(self._holds_all.encode(batch, show_progress_bar=False))
        return np.concatenate(found)

    def loaded(self, batches: Batches) -> Vectors:
        found = []
        for number, batch in batches:
            self._holds_one.load_adapter(self._paths[number], adapter_name=str(number))
            found.append(self._holds_one.encode(batch, show_progress_bar=False))
            self._holds_one[0].auto_model.delete_adapter(str(number))
        return np.concatenate(found)


def _timed(embed: Callable[[Batches], Vectors], batches: Batches) -> Figures:
    began = time.perf_counter()
    count = len(embed(batches))
    seconds = time.perf_counter() - began
    return {"texts_per_second": count / seconds, "p50": seconds, "p95": seconds}


def _alike(one: Vectors, other: Vectors) -> None:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    if (least := float(((one * other).sum(axis=1) / lengths).min())) < NEAR:
        raise RuntimeError(f"the vectors of the two sides have a cosine of {least:.5f}")
