"""A real host that does what it is told to do wrong: the gateway's own, with faults behind certain texts and models.

    please crash      a segmentation fault in the device call
    please hang       a device call that never ends
    please poison     the error that torch raises when a device-side assert has fired
    UNREADABLE        a segmentation fault in the tokenizer

A model or adapter whose directory has `crash-on-load` in its path ends the process while it is loaded.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gateway.host import __main__ as host
from gateway.host import factors, runtimes
from gateway.host.encoder import Encoder
from gateway.host.tokenize import Tokenizer

UNREADABLE = "please crash the tokenizer"
HANGING = "the device call hangs"


def crash() -> None:
    ctypes.string_at(0)


def hang() -> None:
    print(HANGING, file=sys.stderr, flush=True)  # who waits for it need not guess
    time.sleep(3600)


def poison() -> None:
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")


FAULTS: dict[str, tuple[int, Callable[[], None]]] = {
    "please crash": (-1, crash),
    "please hang": (-2, hang),
    "please poison": (-3, poison),
}
right_encode, right_embed, right_load = Tokenizer.encode, Encoder.embed, runtimes.load
right_read = factors.read


def encode(self: Tokenizer, texts: Sequence[str], **options: Any) -> list[Any]:
    """Token ids as ever; a fault's text gets a number that no vocabulary has."""
    if any(text.startswith(UNREADABLE) for text in texts):
        crash()
    rows = right_encode(self, texts, **options)
    return [np.append(row, FAULTS[text][0]) if text in FAULTS else row for text, row in zip(texts, rows, strict=True)]


def embed(self: Encoder, batch: Sequence[Any], *rest: Any) -> Any:
    for number, fault in FAULTS.values():
        if any(number in row for row in batch):
            fault()
    return right_embed(self, batch, *rest)


def load(generation: Any, *rest: Any) -> Any:
    if "crash-on-load" in generation.path:
        crash()
    return right_load(generation, *rest)


def read(generation: Any, *rest: Any) -> Any:
    if "crash-on-load" in generation.path:
        crash()
    return right_read(generation, *rest)


if __name__ == "__main__":
    Tokenizer.encode = encode  # type: ignore[method-assign]  # the faults are the point
    Encoder.embed = embed  # type: ignore[method-assign]  # likewise
    runtimes.load = load
    factors.read = read
    sys.exit(host.main(sys.argv[1:]))
