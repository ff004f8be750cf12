"""What things cost, in seconds and bytes: from the figures of `docs/performance.json`, measured on the machine that it
names. What is derived from them rather than measured is said here.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.pages import DOCS, FIGURES
from gateway.host.pace import FIRST_RATE

RUNTIME: Final = "torch/float32"
MINILM_LINEAR: Final = 10.6e6  # parameters of the matrices that every token goes through
BERT_LARGE_BYTES: Final = 1_340_000_000
ADAPTER_BYTES: Final = 400_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A size of model. `work` is its cost of a token, in MiniLMs: that of the matrices goes with their parameters,
    which is derived and not measured. `share` of a population."""

    name: str
    bytes: int
    work: float
    share: float
    adapter: bool = False


KINDS: Final = (
    Kind("MiniLM", 90_868_376, 1.0, 0.60),
    Kind("BERT-base", 435_588_776, 85.1e6 / MINILM_LINEAR, 0.15),
    Kind("BERT-large", BERT_LARGE_BYTES, 302.3e6 / MINILM_LINEAR, 0.05),
    Kind("adapter", ADAPTER_BYTES, 1.0, 0.20, adapter=True),  # of a MiniLM
)


@dataclass(frozen=True, slots=True)
class Costs:
    """`call` seconds of a device call and `token` of each of its tokens, of a MiniLM; `load` seconds of any load and
    `byte` of each of its bytes. `machine` is where the first three were measured."""

    call: float
    token: float
    load: float
    byte: float
    machine: str

    def compute(self, tokens: int, work: float) -> float:
        """Seconds of a device call."""
        return self.call + tokens * self.token * work

    def loading(self, size: int) -> float:
        """Seconds of a load."""
        return self.load + size * self.byte


def measured(report: Mapping[str, Any] | None = None, volume: float = FIRST_RATE) -> Costs:
    """From a report of `python -m bench`. A model is read at `volume` bytes a second, an assumption: what is on a
    volume that many share is in nobody's page cache. All that comes on top of reading is measured: the first answer of
    a model that is not loaded, of two sizes, less an answer of one that is."""
    if report is None:
        report = json.loads((DOCS / FIGURES).read_text(encoding="utf-8"))
    cells, sizes = report["parts"]["inprocess"]["cells"], report["parts"]["loads"]["sizes"]
    token = 1 / (64 * _median(cells["32 x 64"][RUNTIME], "texts_per_second"))
    call = max(0.0, _median(cells["1 x 16"][RUNTIME], "p50") - 16 * token)
    small, large = sizes["MiniLM"], sizes["BERT-base, random"]
    seconds = [statistics.median(size["from_page_cache"]["answered"]) for size in (small, large)]
    beside = (seconds[1] - seconds[0]) / (large["bytes"] - small["bytes"])
    load = max(0.0, seconds[0] - beside * small["bytes"] - call - 16 * token)
    machine = f"{report['machine']['cpu']}, {report['machine']['cores']} cores"
    return Costs(call, token, load, beside + 1 / volume, machine)


def _median(figures: list[dict[str, float]], key: str) -> float:
    return statistics.median(each[key] for each in figures)
