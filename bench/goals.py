"""The goals of the hot path, each as a ratio measured in one run, and whether it was met.

A verdict is a comparison of two numbers of the report; where the report lacks them it is "not measured".
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from bench import devices, generating, overload, spoken, swapping
from bench.http import BATCHES, GATEWAY, RUNTIME, SINGLE
from bench.inprocess import ENCODE
from bench.rounds import Cell, median, ratio

QUEUE_ALLOWANCE: Final = 1.25  # a queue's length, and the device call that runs while one waits
RIGHT: Final = 0.9  # of the refusals must have told a time that turned out right

Parts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`measured` None: the report has no figure for it; `note` says what else is worth knowing."""

    goal: str
    measured: float | None
    sense: Literal["at least", "at most"]
    target: float
    unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.target if self.sense == "at least" else self.measured <= self.target

    def row(self) -> tuple[str, str, str, str, str]:
        shown = "not measured" if self.measured is None else f"{self.measured:.3g}{self.unit}"
        word = {None: "", True: "yes", False: "**no**"}[self.met]
        return self.goal, f"{self.sense} {self.target:g}{self.unit}", shown, word, self.note


def verdicts(report: Mapping[str, Any]) -> list[Verdict]:
    """Every goal, in order. A part that failed was not measured."""
    parts = {name: part for name, part in report["parts"].items() if "failed" not in part}
    rows = [*_http(parts.get("http")), *_peers(parts.get("peers")), *_models(parts.get("models"))]
    return [
        *rows,
        *_devices(parts.get("devices")),
        *_adapters(parts.get("adapters")),
        *_registered(parts.get("registered")),
        *_loads(parts.get("loads")),
        *_overload(parts.get("overload")),
        *_idle(parts.get("memory")),
        *_knowledge(parts.get("knowledge"), parts.get("ingestion")),
        *_training(parts.get("training")),
        *_generating(parts.get("generating")),
    ]


def _http(part: Parts | None) -> Iterator[Verdict]:
    one, many, batches = SINGLE[0].name, SINGLE[-1].name, BATCHES.name
    cells: dict[str, Cell] = part["cells"] if part else {}

    def over(cell: str, side: str) -> float | None:
        return ratio(cells[cell], GATEWAY, side) if cell in cells else None

    faster = ratio(cells[one], ENCODE, GATEWAY, "p50") if one in cells else None
    within = "of the same runtime in one process"
    yield Verdict(f"1. 64 connections of one short text, {within}", over(many, RUNTIME), "at least", 0.85)
    yield Verdict(f"1. 8 connections of 32 texts, {within}", over(batches, RUNTIME), "at least", 0.95)
    yield Verdict(
        "2. 64 connections of one short text, over `encode` in batches of 32", over(many, ENCODE), "at least", 2
    )
    yield Verdict("2. 8 connections of 32 texts, over `encode` in batches of 32", over(batches, ENCODE), "at least", 2)
    yield Verdict("2. latency of one short text, `encode` over us", faster, "at least", 2.5)


def _peers(part: Parts | None) -> Iterator[Verdict]:
    least, tail, note = None, None, ""
    if part:
        best = {name: _over_best(cell, "texts_per_second", max) for name, cell in part["cells"].items()}
        known = {name: value for name, value in best.items() if value is not None}
        least = min(known.values(), default=None)
        note = ", ".join(f"{name.partition(' ')[0]}: {value:.2f}" for name, value in known.items())
        tail = _over_best(part["cells"]["64 connections"], "p99", min)
    yield Verdict("3. throughput over the best peer, the least of all connections", least, "at least", 3, note=note)
    yield Verdict("3. p99 at 64 connections, as a share of the best peer's", tail, "at most", 0.25)


def _over_best(cell: Cell, key: str, best: Callable[[Iterable[float]], float]) -> float | None:
    """The gateway over the best peer of the same round; the median over the rounds."""
    peers = [measured for side, measured in cell.items() if side != GATEWAY]
    if not peers:
        return None
    rounds = range(len(cell[GATEWAY]))
    return statistics.median(cell[GATEWAY][n][key] / best(peer[n][key] for peer in peers) for n in rounds)


def _models(part: Parts | None) -> Iterator[Verdict]:
    for shape in (SINGLE[-1].name, BATCHES.name):
        found = {
            name.partition(" ")[0]: ratio(cell, "many", "one")
            for name, cell in (part["cells"] if part else {}).items()
            if name.endswith(shape)
        }
        note = ", ".join(f"{count}: {value:.2f}" for count, value in found.items())
        title = f"4. models in turn over one model, {shape.removesuffix(', json')}, the least"
        yield Verdict(title, min(found.values(), default=None), "at least", 0.95, note=note)


def _devices(part: Parts | None) -> Iterator[Verdict]:
    """Told only where it was asked for."""
    if part is None:
        return
    over = ratio(part["cells"][devices.SHAPE.name], devices.TWO, devices.ONE)
    best = ratio(part["cells"][devices.CEILING], devices.TWO, devices.ONE)
    note = f"two bare processes over one on these {part['cores']} cores: {best:.2f}"
    yield Verdict("4. mixed models on two devices, over one", over, "at least", 1.8, note=note)


def _adapters(part: Parts | None) -> Iterator[Verdict]:
    cells: dict[str, Cell] = part["cells"] if part else {}
    found = {name.partition(" ")[0]: ratio(cell, "mixed", "base") for name, cell in cells.items() if "base" in cell}
    note = ", ".join(f"{count}: {value:.2f}" for count, value in found.items())
    yield Verdict("4. 32 adapters over one base, of the base alone", found.get("32"), "at least", 0.8, note=note)
    swapped = ratio(cells["one at a time"], "mixed", "swapped") if cells else None
    yield Verdict("4. 32 adapters together, over one slot that is swapped", swapped, "at least", 5)
    inside = cells.get(swapping.CELL)
    for side in (swapping.ACTIVE, swapping.LOADED):
        times = ratio(inside, swapping.TOGETHER, side) if inside else None
        yield Verdict(f"4. 32 adapters in one call, over {side}", times, "at least", 5)
    size = part["bytes"]["on_device"] / part["bytes"]["tensors"] if part else None
    yield Verdict("4. bytes of an adapter, over those of its tensors", size, "at most", 1.1)


def _registered(part: Parts | None) -> Iterator[Verdict]:
    late, note = None, ""
    if part:
        few, *_, many = map(str, part["counts"])
        late = ratio(part["cells"]["registered"], many, few, "p95")
        note = f"{many} adapters in {part['slots']} slots, over {few} that are loaded"
    yield Verdict("4. p95 of more adapters than slots, as Zipf has it", late, "at most", 2, note=note)


def _loads(part: Parts | None) -> Iterator[Verdict]:
    for name, size in (part["sizes"] if part else {"MiniLM": None}).items():
        cold = _over(size, "from_page_cache")
        yield Verdict(f"5. load of {name} from the page cache, over its tensors alone", cold, "at most", 1.3)
    back = part["sizes"]["MiniLM"]["from_host_memory"] if part else None
    seconds = 1000 * statistics.median(back["waited"]) if back else None
    note = f"{back['returned']} of {len(back['waited'])} came from host memory" if back else ""
    yield Verdict("5. return of MiniLM from host memory", seconds, "at most", 20, " ms", note)


def _over(size: Mapping[str, Any] | None, way: str) -> float | None:
    return statistics.median(size[way]["waited"]) / statistics.median(size["tensors_alone"]) if size else None


def _overload(part: Parts | None) -> Iterator[Verdict]:
    most = part["loads"]["4x"] if part else {}
    bound = QUEUE_ALLOWANCE * (part["queue_seconds"] if part else overload.QUEUE)
    note = f"{QUEUE_ALLOWANCE:g} times what the queue holds"
    refused = bool(most.get("refused"))
    told = f"median of said over true: {most['retry_after']:.2f}" if refused else ""
    yield Verdict(
        "6. throughput at four times the capacity, over the capacity", most.get("throughput"), "at least", 0.95
    )
    yield Verdict("6. p99 of accepted requests there", most.get("p99"), "at most", round(bound, 2), " s", note)
    late = 1000 * most["refusal_p99"] if refused else None
    yield Verdict("6. refusals there, p99", late, "at most", 5, " ms")
    right = most["retry_after_right"] if refused else None
    yield Verdict("6. share of refusals whose Retry-After was right within 30%", right, "at least", RIGHT, note=told)


def _idle(part: Parts | None) -> Iterator[Verdict]:
    resident = part["after_load"]["first"] / 1e6 if part else None
    listening = median(part["starts"], "listening") if part else None
    ready = f"with its host: {median(part['starts'], 'ready'):.2f} s" if part else ""
    share = 100 * max(part["idle_share"], part["idle_share_loaded"]) if part else None
    yield Verdict("7. memory of the gateway process after load", resident, "at most", 60, " MB")
    yield Verdict("7. the gateway process is ready", listening, "at most", 1, " s", ready)
    yield Verdict("7. CPU of an idle system, of one core", share, "at most", 0.5, "%")


def _training(part: Parts | None) -> Iterator[Verdict]:
    """Told only where it was asked for: it takes minutes."""
    if part is not None:
        measured = statistics.median(part["ratios"])
        yield Verdict("training: steps per second over plain sentence-transformers", measured, "at least", 0.97)


def _knowledge(part: Parts | None, ingestion: Parts | None) -> Iterator[Verdict]:
    recall = min(row["recall"] for row in part["rows"]) if part else None
    most = f"up to {part['rows'][-1]['chunks']:,} chunks" if part else ""
    yield Verdict("8. recall@10 of a knowledge base against a full comparison", recall, "at least", 0.95, note=most)
    rounds = ingestion["rounds"] if ingestion else []
    rate = (
        statistics.median(each["embed"]["seconds"] / each["ingest"]["seconds"] for each in rounds) if rounds else None
    )
    yield Verdict("8. ingestion into a knowledge base, over embedding the same chunks", rate, "at least", 0.8)


def _generating(part: Parts | None) -> Iterator[Verdict]:
    """Told only where it was asked for."""
    if part is None:
        return
    many = generating.adapters(max(part["voices"]))
    cell, key = part["cells"][many], spoken.TOKENS
    alone = ratio(cell, generating.MIXED, generating.BASE, key)
    yield Verdict(f"8. a language model, {many} in mixed batches, over its base alone", alone, "at least", 0.8)
    swapping = ratio(cell, generating.MIXED, generating.SWAPPING, key)
    yield Verdict(f"8. the same over one adapter at a time, {many}", swapping, "at least", 5)
    size = part["voice_bytes"] / part["voice_file_bytes"]
    yield Verdict("8. bytes of an adapter over those of its tensors", size, "at most", 1.1)
    rows = [cell for name, cell in part["cells"].items() if generating.PADDED in cell and name.endswith("texts")]
    padded = min(ratio(cell, generating.OURS, generating.PADDED, key) for cell in rows)
    yield Verdict("8. our rows over `generate` in one padded batch, the least", padded, "at least", 1)
