"""What is asked: models of many sizes, Poisson arrivals, popularity by Zipf, and what goes wrong meanwhile. All of it
follows from a seed, and every policy of a cell gets the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.scale.costs import KINDS, Costs, Kind
from gateway.host.work import TokenIds
from gateway.model import Generation, Manifest

MEAN_ROWS: Final = 16.0  # texts of a request, geometrically distributed
MOST_ROWS: Final = 256
SIBLINGS: Final = 50  # adapters of one base, on average
MANIFEST: Final = Manifest(
    kind="encoder",
    library="transformers",
    model_type="bert",
    architecture="BertModel",
    dim=1,
    max_tokens=512,
    vocab_size=1,
    transformer_path="",
    tokenizer_path="",
    stages=(),
    weights=(),
    files=(),
    parameters=0,
    stored_bytes=0,
    stored_dtype="F32",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One world. `busy` is the share of all devices' time that the requests need, loads not counted; `budget` in bytes
    of a device. A request has `rows` texts on average, geometrically distributed, each of `row_tokens`. `swaps` a
    second give a model new content. `deaths` devices die at `dies` (a share of the trace's time) and come back at
    `back`. From `crowd_from` on a model that hardly anybody asked for gets `crowd` of all requests."""

    devices: int
    models: int
    alpha: float = 1.0
    busy: float = 0.5
    requests: int = 10_000
    budget: int = 6_000_000_000
    swaps: float = 0.0
    deaths: int = 0
    dies: float = 0.3
    back: float = 0.6
    crowd: float = 0.0
    crowd_from: float = 0.3
    kinds: tuple[Kind, ...] = KINDS
    rows: float = MEAN_ROWS
    row_tokens: int = 64

    @property
    def name(self) -> str:
        return f"{self.devices:,} devices, {self.models:,} models, alpha {self.alpha:g}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: `number` of the model, and how many texts."""

    when: float
    number: int
    rows: int


class World:
    """`models` by number; `sizes`, `works` and `kinds` by number too."""

    def __init__(self, cell: Cell, seed: int, costs: Costs) -> None:
        self.cell = cell
        self._chance = np.random.default_rng([seed, cell.devices, cell.models])
        numbers = np.arange(cell.models)
        shares = np.array([kind.share for kind in cell.kinds])
        chosen = self._chance.choice(len(cell.kinds), cell.models, p=shares / shares.sum())
        plain = [number for number in numbers if not cell.kinds[chosen[number]].adapter]
        if not plain:
            raise ValueError("no model that adapters could be of")
        small = [number for number in plain if cell.kinds[chosen[number]].work == 1.0] or plain
        bases = small[: max(1, cell.models // SIBLINGS)]
        self.kinds: list[Kind] = [cell.kinds[kind] for kind in chosen]
        self.models: list[Generation] = [_generation(number, 0) for number in range(cell.models)]
        for number in numbers:
            if self.kinds[number].adapter:
                base = self.models[bases[int(self._chance.integers(len(bases)))]]
                self.models[number] = _generation(int(number), 0, base)
        self._bases = set(bases)
        weights = 1.0 / np.arange(1, cell.models + 1) ** cell.alpha
        self.popularity = (weights / weights.sum())[self._chance.permutation(cell.models)]
        self._text: TokenIds = np.zeros(cell.row_tokens, np.int64)
        self._edges = np.cumsum(self.popularity)
        works = np.array([kind.work for kind in self.kinds])
        needs = costs.call + cell.rows * cell.row_tokens * costs.token * float((works * self.popularity).sum())
        self.rate = cell.busy * cell.devices / needs  # requests a second
        self.seconds = cell.requests / self.rate

    def asked(self) -> list[Asked]:
        """All requests, in order; their times begin at 0."""
        cell = self.cell
        times = np.cumsum(self._chance.exponential(1 / self.rate, cell.requests))
        picked = np.minimum(np.searchsorted(self._edges, self._chance.random(cell.requests)), cell.models - 1)
        rows = np.minimum(self._chance.geometric(1 / cell.rows, cell.requests), MOST_ROWS)
        if cell.crowd:
            cold = int(np.argmin(self.popularity + 10.0 * (np.array([kind.work for kind in self.kinds]) != 1.0)))
            crowded = (times >= cell.crowd_from * self.seconds) & (self._chance.random(cell.requests) < cell.crowd)
            picked = np.where(crowded, cold, picked)
        return [Asked(float(when), int(n), int(r)) for when, n, r in zip(times, picked, rows, strict=True)]

    def popular(self, most: int) -> list[int]:
        """Numbers of the models that are asked for most, the least of them first."""
        return [int(number) for number in np.argsort(-self.popularity)[:most]][::-1]

    def any_popular(self) -> int:
        """Number of a model, chosen as requests choose."""
        found = int(np.searchsorted(self._edges, self._chance.random()))
        return min(found, self.cell.models - 1)

    def renew(self, number: int, version: int) -> Generation | None:
        """New content of a model; None for one that others stand on, or that stands on one."""
        if number in self._bases or self.kinds[number].adapter:
            return None
        return _generation(number, version)

    def texts(self, count: int) -> list[TokenIds]:
        """Nobody reads them: they have a length."""
        return [self._text] * count

    def size(self, generation: Generation) -> int:
        return self.kinds[number_of(generation)].bytes

    def work(self, generation: Generation) -> float:
        return self.kinds[number_of(generation)].work


def number_of(generation: Generation) -> int:
    return int(generation.path)


def _generation(number: int, version: int, base: Generation | None = None) -> Generation:
    return Generation(f"{number:08x}{version:08x}".ljust(64, "0"), str(number), MANIFEST, base=base)
