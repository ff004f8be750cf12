"""What one process does with the same texts and no HTTP: `SentenceTransformer.encode`, and each of our runtimes.

Every side is a process of its own that stays, so that no two disturb one another's threads, and each vector is held
against those of `encode` in float32.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench import directories, texts
from bench.rounds import Figures, interleaved, told
from bench.setting import Setting

ENCODE: Final = "encode"
OURS: Final = ("torch/float32", "torch/bfloat16", "openvino/float32", "openvino/bfloat16", "openvino/int8")
SHAPES: Final = {  # name -> texts, tokens of each; 0 tokens are mixed lengths
    "1 x 16": (1, 16),
    "8 x 16": (8, 16),
    "32 x 16": (32, 16),
    "32 x 64": (32, 64),
    "32 x 256": (32, 256),
    "32 x mixed": (32, 0),
}
QUICK: Final = ("1 x 16", "32 x 16", "32 x 64")


class Unavailable(RuntimeError):
    """That side is not to be had on this machine; the message says why."""


class Worker:
    """A `bench.worker` and the questions to it."""

    def __init__(self, what: str, directory: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", what, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        first = self._read()
        if "failed" in first:
            self.close()
            raise Unavailable(first["failed"])

    def rate(self, count: int, tokens: int, seconds: float) -> Figures:
        """texts_per_second, cpu_per_text, p50."""
        figures: Figures = self._ask({"texts": count, "tokens": tokens, "seconds": seconds})
        return figures

    def vectors(self, batch: Sequence[str]) -> npt.NDArray[np.float32]:
        found = self._ask({"vectors": list(batch)})
        return np.frombuffer(base64.b64decode(found["data"]), "<f4").reshape(-1, found["dim"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"failed": f"ended with status {self._process.wait()}"}


@contextmanager
def worker(what: str, directory: str) -> Iterator[Worker]:
    """Raises Unavailable."""
    opened = Worker(what, directory)
    try:
        yield opened
    finally:
        opened.close()


def run(setting: Setting) -> dict[str, Any]:
    """Rates of every side and shape, what each costs in cosine, and the sides that are not there."""
    directory = str(directories.publish(setting.own("inprocess"), "bench/minilm"))
    missing: dict[str, str] = {}
    sides: dict[str, Worker] = {}
    with ExitStack() as stack:
        for what in (ENCODE, *OURS):
            try:
                sides[what] = stack.enter_context(worker(what, directory))
            except Unavailable as error:
                missing[what] = str(error)
            told(f"{what}: {missing.get(what, 'ready')}")
        shapes = {name: SHAPES[name] for name in (QUICK if setting.quick else SHAPES)}
        cells = {
            name: {what: _measure(side, *shape, setting) for what, side in sides.items()}
            for name, shape in shapes.items()
        }
        return {
            "cells": interleaved(cells, setting.rounds),
            "cosine": agreement(sides),
            "missing": missing,
            "threads": len(os.sched_getaffinity(0)),
        }


def _measure(side: Worker, count: int, tokens: int, setting: Setting) -> Any:
    return lambda: side.rate(count, tokens, setting.seconds / 2)


def agreement(sides: dict[str, Worker]) -> dict[str, dict[str, float]]:
    """side -> lowest and mean cosine to `encode` in float32, over texts of mixed lengths."""
    batch = texts.mixed(64, seed=1)
    wanted = _unit(sides[ENCODE].vectors(batch))
    cosines = {what: (wanted * _unit(side.vectors(batch))).sum(axis=1) for what, side in sides.items()}
    return {what: {"lowest": float(found.min()), "mean": float(found.mean())} for what, found in cosines.items()}


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    unit: npt.NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit
