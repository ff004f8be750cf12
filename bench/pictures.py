"""The pictures of a report: throughput and latency over connections, how rates scale, and adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bench.chart import Panel, picture
from bench.generating import MIXED
from bench.http import GATEWAY
from bench.rounds import Cell, median, ratio
from bench.spoken import TOKENS

CONNECTIONS: Final = "performance-connections.svg"
SCALING: Final = "performance-scaling.svg"
ADAPTERS: Final = "performance-adapters.svg"
REGISTERED: Final = "performance-registered.svg"
PICTURES: Final = {  # what each shows, for those who cannot see it
    CONNECTIONS: "Throughput and latency of the gateway and its peers over the number of connections",
    SCALING: "Rates over the batch, the length of texts and the number of models",
    ADAPTERS: "Tokens a second of a language model over the number of adapters that share its calls",
    REGISTERED: "Latency and throughput over the number of adapters that are asked for, most of them not loaded",
}
NAMES: Final = {GATEWAY: "Dropgate"}


def pictures(report: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SVG, of what the report has."""
    parts = {name: part for name, part in report["parts"].items() if "failed" not in part}
    made = {}
    if peers := parts.get("peers"):
        made[CONNECTIONS] = over_connections(peers["cells"])
    panels = [*_inprocess(parts.get("inprocess")), *_models(parts.get("models"))]
    if panels:
        made[SCALING] = picture("How rates scale", panels)
    if generating := parts.get("generating"):
        made[ADAPTERS] = over_adapters(generating)
    if registered := parts.get("registered"):
        made[REGISTERED] = over_registered(registered)
    return made


def over_registered(part: Mapping[str, Any]) -> str:
    sides = part["cells"]["registered"]
    late = {key: [1000 * median(side, key) for side in sides.values()] for key in ("p50", "p95")}
    rates = {"throughput": [median(side, "texts_per_second") for side in sides.values()]}
    axis = f"adapters that are asked for, as Zipf has it, in {part['slots']} slots"
    panels = [
        Panel("Latency", "milliseconds", axis, list(sides), late, True),
        Panel("Throughput", "texts/s", axis, list(sides), rates, True),
    ]
    return picture("Adapters of an encoder, more than are loaded", panels)


def over_adapters(part: Mapping[str, Any]) -> str:
    cells = {name: cell for name, cell in part["cells"].items() if MIXED in cell}
    labels = [name.partition(" ")[0] for name in cells]
    series = {side: [median(cell[side], TOKENS) for cell in cells.values()] for side in next(iter(cells.values()))}
    panels = [Panel("As many texts, of ever more adapters", "tokens/s", "number of adapters", labels, series, True)]
    return picture("Adapters of a language model", panels)


def over_connections(cells: Mapping[str, Cell]) -> str:
    labels = [name.partition(" ")[0] for name in cells]
    shared = "one short text a request, float32, JSON"
    return picture(
        "The gateway and its peers, side by side",
        [
            Panel(
                "Throughput",
                f"requests/s; {shared}",
                "connections",
                labels,
                _series(cells, "texts_per_second", 1),
                True,
            ),
            Panel("Latency, 99th percentile", "milliseconds", "connections", labels, _series(cells, "p99", 1000), True),
        ],
    )


def _series(cells: Mapping[str, Cell], key: str, times: float) -> dict[str, list[float | None]]:
    sides = dict.fromkeys(side for cell in cells.values() for side in cell)
    return {
        NAMES.get(side, side): [times * median(cell[side], key) if side in cell else None for cell in cells.values()]
        for side in sides
    }


def _inprocess(part: Mapping[str, Any] | None) -> Iterable[Panel]:
    if not part:
        return
    cells = part["cells"]
    batches = {name.partition(" ")[0]: cells[name] for name in cells if name.endswith("x 16")}
    lengths = {
        name.rpartition(" ")[2]: cells[name] for name in cells if name.startswith("32 x") and "mixed" not in name
    }
    for title, axis, chosen in (
        ("Batch, 16 tokens a text", "texts in a batch", batches),
        ("Length, 32 texts a batch", "tokens of a text", lengths),
    ):
        yield Panel(title, "texts/s in one process", axis, list(chosen), _series(chosen, "texts_per_second", 1), True)


def _models(part: Mapping[str, Any] | None) -> Iterable[Panel]:
    if not part:
        return
    counts = list(part["counts"])
    shapes = dict.fromkeys(name.partition(", ")[2] for name in part["cells"])
    series = {
        shape.removesuffix(", json"): [
            1.0,
            *(ratio(part["cells"][f"{count} models, {shape}"], "many", "one") for count in counts),
        ]
        for shape in shapes
    }
    labels = ["1", *(str(count) for count in counts)]
    yield Panel("Number of models", "throughput, as a share of one model's", "models in turn", labels, series)
