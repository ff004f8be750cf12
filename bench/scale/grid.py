"""Which worlds are simulated, and under which policies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

from bench.rounds import told
from bench.scale.costs import KINDS, Costs
from bench.scale.figures import Figures
from bench.scale.gateways import FRESH, HASHED, LATE, ROUTED
from bench.scale.rivals import BEFORE, BOUNDED, COUNT, DOUBLING, HASHING, OURS, RANDOM
from bench.scale.trial import run
from bench.scale.world import Cell
from gateway.engine.placement import LOAD_WEIGHT

SMALL: Final = 1_500_000_000  # bytes of a device, of a thousand: what is loaded beforehand takes the simulation longest
SIZES: Final = {  # ten models for each device, or a hundred, of which most do not fit
    "10 devices, 100 models": Cell(10, 100, requests=1000),
    "10 devices, 1,000 models": Cell(10, 1000, requests=1500),
    "100 devices, 1,000 models": Cell(100, 1000, requests=2000),
    "100 devices, 10,000 models": Cell(100, 10_000, requests=3000),
    "1,000 devices, 10,000 models": Cell(1000, 10_000, requests=5000, budget=SMALL),
    "1,000 devices, 100,000 models": Cell(1000, 100_000, requests=5000, budget=SMALL),
}
MANY: Final = 1000  # devices from which on not all policies are: a run takes a minute
ALPHAS: Final = (0.6, 0.8, 1.0, 1.2)
DEMANDS: Final = (0.3, 0.5, 0.7)
DEATHS: Final = Cell(20, 2000, requests=1500, deaths=4, dies=0.5, back=0.8, swaps=0.2, rows=8.0)
CROWD: Final = Cell(20, 400, requests=3000, budget=2_000_000_000, rows=8.0, crowd=0.6, crowd_from=0.4, kinds=KINDS[:1])
FRONTS: Final = Cell(24, 2400, requests=1200)
TWO: Final = Cell(1, 8, busy=1.5, requests=1200, rows=4.0, kinds=KINDS[:1])


WEIGHTS: Final = (LOAD_WEIGHT, 1.0, 4.0, 8.0)  # of a load beside waiting as long; the first is the gateway's own
WEIGHED: Final = "a load counts "


class Job(NamedTuple):
    """`row` is what it is a figure of; `options` are the engine's, and `label` says what is special about them."""

    part: str
    row: str
    policy: str
    cell: Cell
    options: dict[str, Any]
    label: str = ""


def jobs(*, quick: bool = False, share: float = 1.0) -> list[Job]:
    """All of them, with a `share` of their requests; `quick`: those of few devices, with a tenth."""
    found = [*_sizes(), *_alphas(), *_loads(), *_weights(), *_deaths(), *_crowd(), *_fronts(), *_two()]
    if quick:
        found, share = [job for job in found if job.cell.devices <= 24 and job.part != "alphas"], share / 10
    return [job._replace(cell=replace(job.cell, requests=max(300, int(job.cell.requests * share)))) for job in found]


def _sizes() -> Iterator[Job]:
    for name, cell in SIZES.items():
        for policy in (OURS, BEFORE, RANDOM, COUNT, HASHING, BOUNDED):
            if cell.devices < MANY or policy in (OURS, RANDOM, BOUNDED):
                yield Job("sizes", name, policy, cell, {})


def _alphas() -> Iterator[Job]:
    for alpha in ALPHAS:
        for policy in (OURS, RANDOM, HASHING, BOUNDED):
            yield Job("alphas", f"{alpha:g}", policy, replace(SIZES["10 devices, 1,000 models"], alpha=alpha), {})


def _loads() -> Iterator[Job]:
    for busy in DEMANDS:
        for policy in (OURS, RANDOM, HASHING, BOUNDED):
            yield Job("loads", f"{busy:g}", policy, replace(SIZES["10 devices, 1,000 models"], busy=busy), {})


def _weights() -> Iterator[Job]:
    row = "10 devices, 1,000 models"
    yield from _weighed("weights", row, SIZES[row])


def _weighed(part: str, row: str, cell: Cell) -> Iterator[Job]:
    for weight in WEIGHTS:
        yield Job(part, row, OURS, cell, {"load_weight": weight}, f"{WEIGHED}{weight:g}")
    yield Job(part, row, DOUBLING, cell, {})


def _deaths() -> Iterator[Job]:
    for policy in (OURS, BEFORE, RANDOM, HASHING, BOUNDED):
        yield Job("deaths", "4 of 20 devices die", policy, DEATHS, {})


def _crowd() -> Iterator[Job]:
    row = "60% of clients turn to one model"
    yield from _weighed("crowd", row, CROWD)
    yield Job("crowd", row, BEFORE, CROWD, {}, f"{BEFORE}: after 1 s, one by one")
    yield Job("crowd", row, HASHING, CROWD, {})
    yield Job("crowd", row, BOUNDED, CROWD, {})


def _fronts() -> Iterator[Job]:
    for policy in (OURS, FRESH, ROUTED, LATE, HASHED):
        yield Job("gateways", "24 devices, 2,400 models", policy, FRONTS, {})


def _two() -> Iterator[Job]:
    """What one device cannot do, and two can."""
    for devices in (1, 2):
        yield Job("devices", str(devices), OURS, replace(TWO, devices=devices, busy=TWO.busy * 2 / devices), {})


def play(costs: Costs, what: tuple[Job, int]) -> Figures:
    """A run, told to whoever waits."""
    job, seed = what
    began = time.monotonic()
    found = run(job.cell, job.policy, seed, costs, **job.options)
    told(f"{job.part}: {job.row}, {job.policy}, seed {seed}: {time.monotonic() - began:.0f} s")
    return found
