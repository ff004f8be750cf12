"""What this machine could do at most with MiniLM's matrices, and how fast its memory and its bus are.

    python -m bench.limit SECONDS        in a process of its own, since it takes all cores and a gigabyte

Nothing that multiplies these matrices can be faster; attention, normalisation and all the rest come on top.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from bench.setting import Setting

WIDTH: Final = 384
INNER: Final = 1536
LAYERS: Final = 6
MATRICES: Final = [(WIDTH, WIDTH)] * 4 + [(WIDTH, INNER), (INNER, WIDTH)]  # one layer's: columns in, columns out
FLOPS: Final = 2 * sum(into * out for into, out in MATRICES)  # of one layer, for one token
TOKENS: Final = 512  # rows of a call: 32 texts of 16 tokens
BYTES: Final = 1 << 29  # larger than any cache
CUDA_BYTES: Final = 1 << 28

Multiply = Callable[[Tensor, Tensor], Tensor]


def run(setting: Setting) -> dict[str, Any]:
    """The measuring process's answer."""
    command = [sys.executable, "-m", "bench.limit", str(setting.seconds / 2)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, Any] = json.loads(ran.stdout)
    return measured


def measured(seconds: float) -> dict[str, Any]:
    """GFLOP/s of one layer's matrices, bytes a second of memory and bus, and what has failed."""
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    rates: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, prepare in KERNELS.items():
        try:
            rates[name] = _gflops(prepare, seconds)
        except Exception as error:  # a kernel that this machine or this torch does not have is told as such
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return {
        "threads": threads,
        "gflops": rates,
        "missing": missing,
        "flops_per_token": FLOPS * LAYERS,
        "memory": memory_bandwidth(seconds),
        "bus": bus_bandwidth(seconds) if torch.cuda.is_available() else {},
    }


def _plain(dtype: torch.dtype) -> Callable[[Tensor], Multiply]:
    def prepare(weight: Tensor) -> Multiply:
        placed = weight.to(dtype)
        return lambda rows, _: functional.linear(rows.to(dtype), placed)

    return prepare


def _packed(dtype: torch.dtype) -> Callable[[Tensor], Multiply]:
    """oneDNN with weights in the layout that it likes best (torch's inductor does the same)."""

    def prepare(weight: Tensor) -> Multiply:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), TOKENS)
        multiply = torch.ops.mkldnn._linear_pointwise

        def linear(rows: Tensor, _: Tensor) -> Tensor:
            product: Tensor = multiply(rows.to(dtype), packed, None, "none", [], "")
            return product

        return linear

    return prepare


def _int8(weight: Tensor) -> Multiply:
    columns = (weight * 100).to(torch.int8).t().contiguous()

    def linear(rows: Tensor, _: Tensor) -> Tensor:
        return torch._int_mm(rows, columns)

    return linear


KERNELS: Final[dict[str, Callable[[Tensor], Multiply]]] = {
    "torch float32": _plain(torch.float32),
    "oneDNN float32, packed": _packed(torch.float32),
    "oneDNN bfloat16, packed": _packed(torch.bfloat16),
    "torch bfloat16": _plain(torch.bfloat16),
    "int8": _int8,
}
DTYPES: Final = {"oneDNN bfloat16, packed": torch.bfloat16, "torch bfloat16": torch.bfloat16, "int8": torch.int8}


def _gflops(prepare: Callable[[Tensor], Multiply], seconds: float) -> float:
    """The six products of one layer in turn, on inputs that are there already in the kernel's own type."""
    dtype = next(
        (DTYPES[name] for name, known in KERNELS.items() if known is prepare and name in DTYPES), torch.float32
    )
    steps = []
    for into, out in MATRICES:
        weight = torch.randn(out, into) * 0.02
        rows = (torch.randn(TOKENS, into) * 10).to(dtype)
        steps.append((prepare(weight), rows, weight))

    def layer() -> None:
        for multiply, rows, weight in steps:
            multiply(rows, weight)

    with torch.inference_mode():
        return TOKENS * FLOPS / _seconds(layer, seconds) / 1e9


def memory_bandwidth(seconds: float) -> dict[str, float]:
    """Bytes a second: read, and copied (read and written, both counted)."""
    source, target = torch.ones(BYTES // 4), torch.empty(BYTES // 4)
    return {
        "read": BYTES / _seconds(source.sum, seconds),
        "copy": 2 * BYTES / _seconds(lambda: target.copy_(source), seconds),
    }


def bus_bandwidth(seconds: float) -> dict[str, float]:
    """Bytes a second between pinned host memory and the CUDA device."""
    pinned = torch.empty(CUDA_BYTES, dtype=torch.uint8, pin_memory=True)
    placed = torch.empty(CUDA_BYTES, dtype=torch.uint8, device="cuda")

    def both(copy: Callable[[], object]) -> Callable[[], None]:
        def waited() -> None:
            copy()
            torch.cuda.synchronize()

        return waited

    return {
        "to_device": CUDA_BYTES / _seconds(both(lambda: placed.copy_(pinned, non_blocking=True)), seconds),
        "from_device": CUDA_BYTES / _seconds(both(lambda: pinned.copy_(placed, non_blocking=True)), seconds),
    }


def _seconds(call: Callable[[], object], seconds: float) -> float:
    """The median of the calls that fit into `seconds`, three at least, after one that warms up."""
    call()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 3:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


if __name__ == "__main__":
    print(json.dumps(measured(float(sys.argv[1]))))
