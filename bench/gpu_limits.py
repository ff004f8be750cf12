"""What the device itself can do: the measures that everything else is a share of.

A rate is the median over rounds; within a round work is asked for many times and waited for once, as a queue that never
runs dry would have it. Matrices hold random numbers: zeros cost less power, and so run faster than any model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import torch

ROUNDS: Final = 5
SQUARE: Final = 8192  # numbers on a side: large enough that only arithmetic counts
BASE_ROWS: Final = 65_536  # tokens of a full batch, through the widest product of a bge-base layer
BUS_BYTES: Final = 1 << 30


def seconds(work: Callable[[], object], device: str, times: int, rounds: int = ROUNDS) -> float:
    """Of one `work`, median over rounds; the first, which warms up, is not counted."""
    found = []
    for _ in range(rounds + 1):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(times):
            work()
        synchronize(device)
        found.append((time.perf_counter() - began) / times)
    return statistics.median(found[1:])


def synchronize(device: str) -> None:
    """Waits for all that the device was asked to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def products(device: str, *, quick: bool) -> dict[str, float]:
    """FLOP/s of matrix products, by shape and type."""
    side = 512 if quick else SQUARE
    rows = 512 if quick else BASE_ROWS
    times = 3 if quick else 10
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        for name, (m, k, n) in {"square": (side, side, side), "bge-base": (rows, 768, 3072)}.items():
            a = torch.randn(m, k, device=device).to(dtype)
            b = torch.randn(k, n, device=device).to(dtype)
            out = torch.empty(m, n, device=device, dtype=dtype)
            took = seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, times)  # type: ignore[misc]  # bound now
            found[f"{name} {str(dtype).removeprefix('torch.')}"] = 2 * m * k * n / took
    return found


def bus(device: str, *, quick: bool) -> dict[str, float]:
    """Bytes a second between page-locked memory and the device, and within the device (read and written)."""
    size = 1 << 24 if quick else BUS_BYTES
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    there, also = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    return {
        "to the device": size / seconds(lambda: there.copy_(host, non_blocking=True), device, 3),
        "from the device": size / seconds(lambda: host.copy_(there, non_blocking=True), device, 3),
        "within the device": 2 * size / seconds(lambda: also.copy_(there), device, 3),
    }


def describe(device: str) -> dict[str, Any]:
    """The device, as a report names it."""
    if torch.device(device).type != "cuda":
        return {"device": device}
    found = torch.cuda.get_device_properties(device)
    return {
        "device": found.name,
        "bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
    }
