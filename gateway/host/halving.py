"""A device call that there is no memory for is halved until it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from gateway.errors import DoesNotFit
from gateway.host import memory
from gateway.host.work import TokenIds, Vectors


def halving(device: str, run: Callable[..., Vectors], rows: Sequence[TokenIds], *beside: Sequence[Any]) -> Vectors:
    """What `run` makes of the rows and of what stands beside each, of as many at once as `device` has memory for."""
    try:
        return run(rows, *beside)
    except memory.OutOfMemory as error:
        memory.release(device)
        if len(rows) == 1:
            raise DoesNotFit(f"one text of {len(rows[0])} tokens does not fit into the device's memory") from error
    half = len(rows) // 2
    halves = [[each[part] for each in (rows, *beside)] for part in (slice(half), slice(half, None))]
    return np.concatenate([halving(device, run, first, *rest) for first, *rest in halves])


def column(found: Sequence[Vectors]) -> Vectors:
    """-> [rows, 1] of objects: arrays of different shapes, which to the batcher are rows as all others."""
    block = np.empty((len(found), 1), dtype=object)
    for index, each in enumerate(found):
        block[index, 0] = each
    return cast(Vectors, block)
