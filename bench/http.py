"""Requests through HTTP beside the same texts in one process: what the way through the gateway costs.

Each round measures the gateway, `SentenceTransformer.encode` and the gateway's own runtime right after one another. The
two in one process get batches of 32 where the gateway has many clients, and the one text where it has one client.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from bench import directories, texts
from bench.generator import Target, against_nothing, drive, has_wrk, target, wrk_version
from bench.inprocess import ENCODE, Worker, worker
from bench.rounds import Measure, interleaved, median
from bench.servers import MODEL, Gateway, ask, gateway
from bench.setting import Setting

GATEWAY: Final = "gateway"
RUNTIME: Final = "runtime"
VARIETY: Final = 16  # different requests that are sent in turn
BATCH: Final = 32  # texts that the sides in one process get at once


@dataclass(frozen=True, slots=True)
class Shape:
    """`connections` clients that each send `texts` texts of `tokens` tokens and want `form`."""

    connections: int
    texts: int
    tokens: int
    form: str = "json"

    @property
    def name(self) -> str:
        return f"{self.connections} connections, {self.texts} x {self.tokens} tokens, {self.form}"


SINGLE: Final = [Shape(connections, 1, 16) for connections in (1, 8, 32, 64)]
BATCHES: Final = Shape(8, 32, 16)
LONG: Final = Shape(4, 8, 256)
FORMS: Final = [Shape(64, 1, 16, "octets"), Shape(8, 32, 16, "base64"), Shape(8, 32, 16, "octets")]
SHAPES: Final = [*SINGLE, BATCHES, LONG, *FORMS]
QUICK: Final = [SINGLE[0], SINGLE[3], BATCHES]


def run(setting: Setting) -> dict[str, Any]:
    """Rates and latencies of each shape, and what the load generator could have done."""
    folder = setting.own("http")
    directory = directories.publish(folder / "models", MODEL)
    with gateway(folder, folder / "models", *setting.gateway_options) as served:
        what = runtime_of(served)
        with worker(ENCODE, str(directory)) as library, worker(what, str(directory)) as runtime:
            shapes = QUICK if setting.quick else SHAPES
            sides = {ENCODE: library, RUNTIME: runtime}
            measured = interleaved(
                {shape.name: cell(shape, served, sides, setting) for shape in shapes}, setting.rounds
            )
        best = max(median(cells[GATEWAY], "requests_per_second") for cells in measured.values())
        compiled = _compiled(served, setting) if has_wrk() else {}
        _, answer = ask(served.url, "/embed", {"inputs": texts.of_tokens(16, 1)})
    body = target("", [texts.of_tokens(16, 1)]).bodies[0]
    bare = against_nothing(folder, body, len(json.dumps(answer)), 64, setting.seconds)
    return {
        "cells": measured,
        "runtime": what,
        "wrk": compiled,
        "generator_alone": bare,
        "generator_headroom": bare["requests_per_second"] / best,
    }


def cell(shape: Shape, served: Gateway, sides: dict[str, Worker], setting: Setting) -> dict[str, Measure]:
    """The gateway, and each side in one process."""
    count = 1 if shape.connections == 1 and shape.texts == 1 else BATCH
    measures: dict[str, Measure] = {
        GATEWAY: partial(drive, _aim(shape, served), shape.connections, setting.seconds, served)
    }
    for name, side in sides.items():
        measures[name] = partial(side.rate, count, shape.tokens, setting.seconds / 2)
    return measures


def _compiled(served: Gateway, setting: Setting) -> dict[str, Any]:
    """Ours and wrk on the same cell, right after one another: what a compiled generator sees more."""
    shape, seconds = SINGLE[-1], 3 * setting.seconds
    aim = _aim(shape, served)
    ours = drive(aim, shape.connections, seconds, served)
    theirs = drive(aim, shape.connections, seconds, served, wrk=True)
    return {"version": wrk_version(), "client": ours, "wrk": theirs}


def _aim(shape: Shape, served: Gateway) -> Target:
    return target(served.url, [texts.of_tokens(shape.tokens, shape.texts, seed) for seed in range(VARIETY)], shape.form)


def runtime_of(served: Gateway, model: str = MODEL) -> str:
    """What the gateway runs `model` with, such as torch/float32."""
    entry = served.listed(model)
    return f"{entry.get('runtime') or 'torch'}/{entry.get('dtype') or 'float32'}"
