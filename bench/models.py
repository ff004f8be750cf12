"""Many models on one device against one of them: does sharing cost anything?

All models are loaded in one gateway. The same load goes to one of them, and then, request by request, to K in turn.
Adapters over one base have a part of their own.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from bench import directories, texts
from bench.generator import drive, target
from bench.http import BATCHES, Shape
from bench.rounds import Measure, interleaved
from bench.servers import Gateway, gateway
from bench.setting import Setting

COUNTS: Final = (2, 4, 8)
QUICK: Final = (4,)
SHAPES: Final = (Shape(64, 1, 16), BATCHES)
VARIETY: Final = 16


def run(setting: Setting) -> dict[str, Any]:
    """For each K and shape: one model and K models, right after one another."""
    folder = setting.own("models")
    counts = QUICK if setting.quick else COUNTS
    names = [f"bench/number-{number}" for number in range(max(counts))]
    for number, name in enumerate(names):
        directories.publish(folder / "models", name, number)
    with gateway(folder, folder / "models", *setting.gateway_options, names=names) as served:
        cells = {
            f"{count} models, {shape.name}": {
                "one": _measure(served, names[:1], shape, setting),
                "many": _measure(served, names[:count], shape, setting),
            }
            for shape in SHAPES
            for count in counts
        }
        return {"cells": interleaved(cells, setting.rounds), "counts": counts}


def _measure(served: Gateway, names: list[str], shape: Shape, setting: Setting) -> Measure:
    batches = [texts.of_tokens(shape.tokens, shape.texts, seed) for seed in range(VARIETY)]
    aim = target(served.url, batches, shape.form, names)
    return partial(drive, aim, shape.connections, setting.seconds, served)
