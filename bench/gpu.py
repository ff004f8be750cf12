"""What a GPU makes of the models: rates against its own limits, graphs and packing on and off, swapping in. One run.

    python -m bench.gpu [--quick] [--device cuda] [--models minilm,bge-base] [--out FILE]

Every way of a cell is measured right after the others in each round, since clocks and neighbours drift; the table has
medians and their spread. Token ids are made up, so that no tokenizer is measured. What this machine cannot do is left
out and listed, with the reason: `--device cpu --quick` runs what a CPU can, to try the program and not to measure it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from bench import gpu_limits, gpu_models
from bench.gpu_limits import synchronize
from bench.gpu_models import SHAPES
from bench.machine import describe
from bench.rounds import rounded, told
from gateway.host import cuda, encoder, launcher, memory
from gateway.host.encoder import Vectors
from gateway.host.graphs import LEAST_USES
from gateway.host.segments import Integers

Way = Literal["embed", "padded", "graphs", "packed", "overlapped"]
Dtype = Literal["bfloat16", "float32"]
Call = Callable[[Sequence[Integers]], Vectors]

LENGTHS: Final = (16, 64, 512)
BATCHES: Final = (1, 8, 32, 128, 512, 2048)
MOST_TOKENS: Final = 65_536  # of one call, as a host on a GPU cuts them
ROUNDS: Final = 3
SECONDS: Final = 0.1  # of one way in one round
MIXED: Final = "16 to 512"
AHEAD: Final = 2  # calls under way at once


class Ways:
    """One loaded model, and the ways to call it on this device. `skipped` says why others are not there."""

    def __init__(self, loaded: encoder.Encoder, device: str) -> None:
        self._loaded = loaded
        self.skipped: dict[str, str] = {}
        self.calls: dict[Way, Call] = {"embed": loaded.embed}
        if loaded.launcher is None:
            self.skipped = dict.fromkeys(("padded", "graphs", "packed", "overlapped"), f"{device} is no CUDA device")
            return
        flash = loaded.launcher.form
        padded = copy.copy(flash)
        padded.flash = False
        self._graphs = launcher.on_device(padded, LENGTHS[-1], device, told)
        plain = launcher.on_device(padded, LENGTHS[-1], device, told, graph_bytes=0)
        self.calls = {"padded": _one(plain), "graphs": _one(self._graphs)}
        if flash.flash:
            packed = launcher.on_device(flash, LENGTHS[-1], device, told, graph_bytes=0)
            self.calls |= {"packed": _one(packed), "overlapped": _two(packed)}
        else:
            self.skipped = dict.fromkeys(("packed", "overlapped"), "no flash attention for this model or type")

    def capture(self, batch: Sequence[Integers]) -> None:
        """What the pauses of a host would have captured."""
        if self._loaded.launcher is None:
            return
        self._graphs.close()  # the last batch's, which would leave less room
        for _ in range(LEAST_USES):
            self.calls["graphs"](batch)
        while self._graphs.wants_pause(busy=False):
            self._graphs.use_pause()

    def of(self) -> dict[Way, Call]:
        """Those that differ for the batch of the last `capture`: a large one has none."""
        captured = self._loaded.launcher is not None and self._graphs.captured_bytes > 0
        return {way: call for way, call in self.calls.items() if captured or way != "graphs"}

    def close(self) -> None:
        if self._loaded.launcher is not None:
            self._graphs.close()
        self._loaded.close()


def _one(way: launcher.Launcher) -> Call:
    return lambda batch: way.begin(batch, _nothing(batch)).wait()


def _two(way: launcher.Launcher) -> Call:
    """The second is begun before the first is waited for."""
    return lambda batch: [pending.wait() for pending in [way.begin(batch, _nothing(batch)) for _ in range(AHEAD)]][-1]


def _nothing(batch: Sequence[Integers]) -> Integers:
    return np.zeros(len(batch), dtype=np.int64)


def texts(count: int, tokens: int | str, seed: int = 0) -> list[Integers]:
    """Made-up token ids that are in every vocabulary; MIXED draws the lengths evenly."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(16, 513, count) if isinstance(tokens, str) else [tokens] * count
    return [chance.integers(1_000, 20_000, length) for length in lengths]


def cells(*, quick: bool) -> list[tuple[int, int | str]]:
    """Batch and tokens of each text."""
    batches, lengths = (BATCHES[:2], LENGTHS[:2]) if quick else (BATCHES, LENGTHS)
    plain: list[tuple[int, int | str]] = [
        (batch, length) for length in lengths for batch in batches if batch * length <= MOST_TOKENS
    ]
    return [*plain, (4 if quick else 128, MIXED)]


def measure(ways: Ways, shape: gpu_models.Shape, batch: Sequence[Integers], seconds: float) -> dict[str, Any]:
    """Way -> its figures, of all rounds. `cosine` is the lowest to the vectors of the first way."""
    ways.capture(batch)
    calls = ways.of()
    vectors = {way: call(batch) for way, call in calls.items()}
    first = next(iter(vectors.values()))
    found: dict[Way, list[float]] = {way: [] for way in calls}
    for number in range(ROUNDS + 1):
        for way, call in calls.items():
            took = _timed(lambda call=call: call(batch), seconds)  # type: ignore[misc]  # bound now
            if number:
                found[way].append(took / (AHEAD if way == "overlapped" else 1))
    tokens = sum(map(len, batch))
    flop = sum(shape.flop(len(ids)) for ids in batch)
    return {
        way: _figures(len(batch), tokens, flop, times) | {"cosine": _lowest_cosine(first, vectors[way])}
        for way, times in found.items()
    }


def _lowest_cosine(some: Vectors, others: Vectors) -> float:
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return float(((some * others).sum(axis=1) / lengths).min())


def _timed(call: Callable[[], object], seconds: float) -> float:
    """Seconds of one call."""
    times, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds or not times:
        call()
        times += 1
    return took / times


def _figures(count: int, tokens: int, flop: float, times: Sequence[float]) -> dict[str, float]:
    middle = statistics.median(times)
    return {
        "milliseconds": 1000 * middle,
        "texts_per_second": count / middle,
        "tokens_per_second": tokens / middle,
        "flop_per_second": flop / middle,
        "spread": (max(times) - min(times)) / middle,
    }


def swap(loaded: encoder.Encoder, device: str) -> dict[str, float]:
    """Off the device and back on: bytes a second, medians."""
    times: dict[str, list[float]] = {"parked": [], "placed": []}
    size = 0
    for _ in range(ROUNDS + 1):
        for name, move in (("parked", loaded.park), ("placed", lambda: loaded.place(device))):
            synchronize(device)
            began = time.perf_counter()
            move()
            synchronize(device)
            times[name].append(time.perf_counter() - began)
            size = loaded.bytes if name == "parked" else size  # on the device, room for captures counts too
        loaded.tidy()
    return {
        "bytes": size,
        "parked_bytes_per_second": size / statistics.median(times["parked"][1:]),
        "placed_bytes_per_second": size / statistics.median(times["placed"][1:]),
    }


def model(name: str, dtype: Dtype, device: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    """All that is measured of one model in one type."""
    generation = gpu_models.generation(name, folder)
    began = time.perf_counter()
    loaded = encoder.load(generation, device, dtype)
    synchronize(device)
    report: dict[str, Any] = {"load_seconds": time.perf_counter() - began, "bytes": loaded.bytes, "skipped": {}}
    if loaded.launcher is None:
        report["skipped"]["swap"] = f"{device} is no CUDA device"
    else:
        report["swap"] = swap(loaded, device)
    ways = Ways(loaded, device)
    report["skipped"] |= ways.skipped
    report["cells"] = {}
    for batch, tokens in cells(quick=quick):
        seconds = SECONDS / 10 if quick else SECONDS
        report["cells"][f"{batch}x{tokens}"] = measure(ways, SHAPES[name], texts(batch, tokens), seconds)
        told(f"{name} {dtype} {batch}x{tokens}")
    ways.close()
    return report


def run(device: str, names: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """The whole report."""
    report: dict[str, Any] = {"machine": describe() | gpu_limits.describe(device), "quick": quick, "skipped": {}}
    if torch.device(device).type == "cuda":
        cuda.prepare(device)
        report["bus"] = gpu_limits.bus(device, quick=quick)
    else:
        report["skipped"]["bus"] = f"{device} is no CUDA device"
    report["skipped"]["http"] = (
        "not measured here; `python -m bench` goes through it, and its gateway takes the device that it finds"
    )
    report["products"] = gpu_limits.products(device, quick=quick)
    report["models"] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for dtype in ("bfloat16", "float32"):
                try:
                    report["models"][f"{name} {dtype}"] = model(name, dtype, device, Path(folder), quick=quick)
                except memory.OutOfMemory as error:
                    report["skipped"][f"{name} {dtype}"] = f"out of memory: {error}"
    return report


def table(report: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{report['machine']}", ""]
    lines += [f"product {name:20}{rate / 1e12:9.2f} TFLOP/s" for name, rate in report["products"].items()]
    lines += [f"{name:28}{rate / 1e9:9.1f} GB/s" for name, rate in report.get("bus", {}).items()]
    for name, found in report["models"].items():
        peak = report["products"][f"square {name.partition(' ')[2]}"]
        lines += ["", f"{name}: {found['bytes'] / 1e6:.0f} MB, loaded in {found['load_seconds']:.2f} s"]
        if moved := found.get("swap"):
            share = moved["placed_bytes_per_second"] / report["bus"]["to the device"]
            lines.append(f"  placed at {moved['placed_bytes_per_second'] / 1e9:.1f} GB/s, {share:.0%} of the bus")
        lines.append(
            f"  {'':14}{'way':12}{'ms':>9}{'texts/s':>11}{'tokens/s':>12}{'of peak':>9}{'spread':>8}{'cosine':>10}"
        )
        lines += [
            f"  {cell:14}{way:12}{figures['milliseconds']:9.2f}{figures['texts_per_second']:11.0f}"
            f"{figures['tokens_per_second']:12.0f}{figures['flop_per_second'] / peak:9.1%}{figures['spread']:8.0%}"
            f"{figures['cosine']:10.5f}"
            for cell, ways in found["cells"].items()
            for way, figures in ways.items()
        ]
        lines += [f"  skipped: {what}: {why}" for what, why in found["skipped"].items()]
    return "\n".join([*lines, "", *(f"skipped: {what}: {why}" for what, why in report["skipped"].items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", default=",".join(SHAPES))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.exit(2, "there is no CUDA device here; --device cpu --quick tries the program without one\n")
    names = [name for name in options.models.split(",") if name]
    if unknown := sorted(set(names) - set(SHAPES)):
        parser.exit(2, f"no such model: {', '.join(unknown)}; there are {', '.join(SHAPES)}\n")
    report = rounded(run(options.device, names, quick=options.quick))
    print(table(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1), "utf-8")


if __name__ == "__main__":
    main()
