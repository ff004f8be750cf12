"""Ever more adapters of an encoder in as many slots, asked for through HTTP as often as Zipf's law has it.

The fewest are all loaded; of the most, nine in ten are not when they are asked for. All are dropped at once, so it is
seen here what a volume with a thousand directories costs.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np

from bench import adapters
from bench.rounds import interleaved, told
from bench.setting import Setting

ASKED: Final = {False: (10, 100, 300, 1000), True: (10, 30, 100)}  # so many adapters are asked for in turn
SLOTS: Final = {False: 100, True: 10}
DRAWS: Final = 4096  # of names, before they are drawn again
SKEW: Final = 1.0
CELL: Final = "registered"


def run(setting: Setting) -> dict[str, Any]:
    """`cells` has one, whose sides are numbers of adapters. `ready` are the seconds until all had answered once."""
    counts, slots = ASKED[setting.quick], SLOTS[setting.quick]
    models = setting.own("registered") / "models"
    names = adapters.published(models, counts[-1])
    began = time.monotonic()
    with adapters.beside(setting, models, "slots", slots, [adapters.BASE, *names]) as served:
        ready = time.monotonic() - began
        told(f"{len(names)} adapters have answered after {ready:.0f} s")
        sides = {str(count): adapters.measure(served, drawn(names[:count]), setting) for count in counts}
        cells = interleaved({CELL: sides}, setting.rounds)
    return {"cells": cells, "counts": counts, "slots": slots, "ready": ready}


def drawn(names: list[str]) -> list[str]:
    """As often as Zipf's law has it, the first the most often."""
    shares = 1 / np.arange(1, len(names) + 1) ** SKEW
    chosen = np.random.default_rng(0).choice(len(names), DRAWS, p=shares / shares.sum())
    return [names[index] for index in chosen]
