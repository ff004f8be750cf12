"""Two devices against one: the same clients and the same models, and a thread for each device.

Beside it stands what this machine could do at best: two bare processes, each on a core of its own, that compute the
same texts with no gateway and no client, over one such process. Where there are no more cores than devices, gateway and
clients take theirs from the devices; the texts are long, so that they take little.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

from bench import directories, texts
from bench.generator import drive, target
from bench.http import Shape
from bench.inprocess import Worker, worker
from bench.rounds import Figures, interleaved, told
from bench.servers import Gateway, gateway
from bench.setting import Setting

MODELS: Final = 4
SHAPE: Final = Shape(16, 4, 256, "base64")
VARIETY: Final = 16
ONE: Final = "one device"
TWO: Final = "two devices"
DEVICES: Final = {ONE: "cpu:0", TWO: "cpu:0,cpu:1"}
BARE: Final = "torch/float32"
CEILING: Final = "bare processes"


def run(setting: Setting) -> dict[str, Any]:
    """Two cells: through HTTP, and the ceiling."""
    folder = setting.own("devices")
    names = [f"bench/number-{number}" for number in range(MODELS)]
    for number, name in enumerate(names):
        directories.publish(folder / "models", name, number)
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        cells: dict[str, dict[str, Any]] = {SHAPE.name: {}, CEILING: {}}
        for side, devices in DEVICES.items():
            options = (f"--device={devices}", "--compute-threads=1", *setting.gateway_options)
            served = stack.enter_context(gateway(folder / side, folder / "models", *options, names=names))
            cells[SHAPE.name][side] = partial(_driven, served, names, setting)
        bare = []
        for number in range(2):
            with _on(cores[number % len(cores)]):
                bare.append(stack.enter_context(worker(BARE, str(folder / "models" / names[number]))))
        cells[CEILING] = {ONE: partial(_together, bare[:1], setting), TWO: partial(_together, bare, setting)}
        told(f"{MODELS} models on one device and on two; {len(cores)} cores")
        return {"cells": interleaved(cells, setting.rounds), "cores": len(cores), "models": MODELS}


def _driven(served: Gateway, names: list[str], setting: Setting) -> Figures:
    batches = [texts.of_tokens(SHAPE.tokens, SHAPE.texts, seed) for seed in range(VARIETY)]
    aim = target(served.url, batches, SHAPE.form, names)
    return drive(aim, SHAPE.connections, 4 * setting.seconds, served)  # a request takes long


@contextmanager
def _on(core: int) -> Iterator[None]:
    """What is started meanwhile stays on that core, and takes as many threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _together(workers: list[Worker], setting: Setting) -> Figures:
    """The rates of all of them at once, added up."""
    with ThreadPoolExecutor(len(workers)) as threads:
        asked = [threads.submit(each.rate, SHAPE.texts, SHAPE.tokens, 2 * setting.seconds) for each in workers]
        rates = [each.result() for each in asked]
    return {
        "texts_per_second": sum(rate["texts_per_second"] for rate in rates),
        "p50": max(rate["p50"] for rate in rates),
    }
