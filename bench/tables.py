"""A report as tables in Markdown, one for each block of `docs/performance.md`; the terminal gets the same."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bench import devices, swapping
from bench import generating as spoken_of
from bench.goals import verdicts
from bench.http import GATEWAY, RUNTIME
from bench.inprocess import ENCODE
from bench.rounds import Cell, median, ratio, ratios, widest
from bench.spoken import TOKENS
from bench.training import OURS, PLAIN, SPEED

CORES: Final = ("server_cores", "generator_cores")
NOTHING: Final = "Not measured.\n"
Report = Mapping[str, Any]
Part = Mapping[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is words, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def blocks(report: Report) -> dict[str, str]:
    """Name of a block -> its text; of a part that was not run, that it was not."""
    made = {"machine": machine(report) if report["parts"] else NOTHING, "goals": goals(report), "noise": noise(report)}
    return made | {name: _block(report, part, make) for name, (part, make) in BLOCKS.items()}


def _block(report: Report, part: str, make: Callable[[Part], str]) -> str:
    found = report["parts"].get(part)
    if found is None:
        return NOTHING
    return f"The part failed: {found['failed']}\n" if "failed" in found else make(found)


def machine(report: Report) -> str:
    about, options = report["machine"], report["options"]
    versions = ", ".join(f"{name} {version}" for name, version in about["libraries"].items())
    return "\n".join(
        [
            f"* {about['cpu']}, {about['cores']} cores, {about['memory_bytes'] / 2**30:.0f} GiB; "
            f"{', '.join(about['instructions'])}",
            f"* {about['system']}, Python {about['python']}, {versions}",
            f"* `{options['command']}` on {report['date']}, {report['seconds'] / 60:.0f} minutes, "
            f"{options['rounds']} rounds of {options['seconds']:g} s, commit {about['commit'] or 'unknown'}",
            "",
        ]
    )


def goals(report: Report) -> str:
    return table(("goal", "target", "measured", "met", ""), (verdict.row() for verdict in verdicts(report)))


def noise(report: Report) -> str:
    rows = [
        (
            name,
            f"{part['noise']['load_average_before']:.2f}",
            f"{100 * part['noise']['stolen_share']:.1f}%",
            f"{100 * widest(part['cells']):.0f}%" if "cells" in part else "",
            f"{part['noise']['seconds']:.0f}",
        )
        for name, part in report["parts"].items()
    ]
    head = ("part", "load average before", "stolen from the machine", "widest spread of the rounds", "seconds")
    return table(head, rows) if rows else NOTHING


def limit(part: Part) -> str:
    rows = [
        (name, f"{rate:,.0f}", f"{1e9 * rate / part['flops_per_token'] / 16:,.0f}")
        for name, rate in part["gflops"].items()
    ]
    rows += [(f"{name} (not here: {why})", "", "") for name, why in part["missing"].items()]
    text = table((f"matrices of MiniLM, {part['threads']} threads", "GFLOP/s", "texts/s of 16 tokens at most"), rows)
    bandwidths = {f"memory, {name}": rate for name, rate in part["memory"].items()}
    bandwidths |= {f"bus, {name}": rate for name, rate in part["bus"].items()}
    text += "\n" + table(("bandwidth", "GB/s"), ((name, f"{rate / 1e9:.1f}") for name, rate in bandwidths.items()))
    return text if part["bus"] else text + "\nNo CUDA device, so no bus.\n"


def inprocess(part: Part) -> str:
    cells: Mapping[str, Cell] = part["cells"]
    rows = []
    for side in part["cosine"]:
        rates = [f"{median(cell[side], 'texts_per_second'):,.0f}" for cell in cells.values()]
        rows.append((side, *rates, f"{1000 * median(cells['32 x 16'][side], 'cpu_per_text'):.2f}", _cosine(part, side)))
    rows += [(f"{side} (not here: {why})", *[""] * (len(cells) + 2)) for side, why in part["missing"].items()]
    return table(("texts/s", *cells, "CPU ms a text, 32 x 16", "lowest cosine to `encode`"), rows)


def _cosine(part: Part, side: str) -> str:
    return f"{min(1.0, part['cosine'][side]['lowest']):.6f}"


def http(part: Part) -> str:
    rows = []
    for name, cell in part["cells"].items():
        ours = cell[GATEWAY]
        ratios_here = ratios(cell, GATEWAY, RUNTIME)
        rows.append(
            (
                name,
                f"{median(ours, 'texts_per_second'):,.0f}",
                f"{1000 * median(ours, 'p50'):.1f}",
                f"{1000 * median(ours, 'p99'):.1f}",
                f"{ratio(cell, GATEWAY, RUNTIME):.2f}",
                f"{min(ratios_here):.2f} to {max(ratios_here):.2f}",
                f"{ratio(cell, GATEWAY, ENCODE):.2f}",
                f"{median(ours, 'server_cores'):.2f}",
                f"{median(ours, 'generator_cores'):.2f}",
            )
        )
    head = ("requests", "texts/s", "p50 ms", "p99 ms", f"over {part['runtime']} in one process", "its rounds")
    text = table((*head, "over `encode`", "cores of the server", "of the generator"), rows)
    alone, wrk = part["generator_alone"], part["wrk"]
    text += (
        f"\nThe load generator does {alone['requests_per_second']:,.0f} requests/s at 64 connections against a "
        f"server that only answers, {part['generator_headroom']:.0f} times the most that was asked of it here."
    )
    if wrk:
        theirs, ours = (wrk[which]["requests_per_second"] for which in ("wrk", "client"))
        text += (
            f" {wrk['version']} in its place sees {theirs:,.0f} requests/s at 64 connections where it sees {ours:,.0f}."
        )
    return text + "\n"


def peers(part: Part) -> str:
    cells: Mapping[str, Cell] = part["cells"]
    rows = []
    for side in dict.fromkeys(side for cell in cells.values() for side in cell):
        for_each = [
            f"{median(cell[side], 'texts_per_second'):,.0f} ({1000 * median(cell[side], 'p50'):,.1f}; "
            f"{1000 * median(cell[side], 'p99'):,.0f})"
            for cell in cells.values()
        ]
        rows.append((f"Dropgate, {part['runtime']}" if side == GATEWAY else side, *for_each))
    text = table(("requests/s (p50; p99 in ms)", *cells), rows)
    over = [
        (side, *(f"{ratio(cell, GATEWAY, side):.1f}" for cell in cells.values()))
        for side in next(iter(cells.values()))
        if side != GATEWAY
    ]
    text += "\n" + table(("Dropgate's throughput over", *cells), over) if over else ""
    notes = [
        f"* {name}: {', '.join(f'{a} {b}' for a, b in found.items())}; lowest cosine to Dropgate's vectors "
        f"{min(1.0, part['cosines'][name]):.6f}"
        for name, found in part["versions"].items()
    ]
    notes += [f"* {name} is not there: {why}" for name, why in part["absent"].items()]
    return text + "\n" + "\n".join(notes) + "\n"


def models(part: Part) -> str:
    rows = [
        (
            name,
            f"{median(cell['one'], 'texts_per_second'):,.0f}",
            f"{median(cell['many'], 'texts_per_second'):,.0f}",
            f"{ratio(cell, 'many', 'one'):.2f}",
            f"{min(ratios(cell, 'many', 'one')):.2f} to {max(ratios(cell, 'many', 'one')):.2f}",
        )
        for name, cell in part["cells"].items()
    ]
    return table(("texts/s", "to one model", "to all in turn", "ratio", "its rounds"), rows)


def loads(part: Part) -> str:
    rows = []
    for name, size in part["sizes"].items():
        cells = [size["tensors_alone"]]
        ways = ("from_page_cache", "from_host_memory")
        cells += [size[way].get(whose, ()) for way in ways for whose in ("waited", "told", "answered")]
        shown = [f"{1000 * statistics.median(values):.1f}" if values else "" for values in cells]
        rows.append((f"{name}, {size['bytes'] / 1e6:.0f} MB", *shown))
    cold, warm = "load from the page cache", "return from host memory"
    told, answered = "as the host tells it", "with the first answer"
    return table(("ms", "tensors alone", cold, told, answered, warm, told, answered), rows)


def swaps(part: Part) -> str:
    rows = [
        (
            name,
            f"{found['texts_per_second']:,.0f}",
            f"{1000 * found['p50']:.1f}",
            f"{1000 * found['p99']:.1f}",
            f"{found['refused'] + found['broken']:.0f}",
        )
        for name, found in (("without swaps", part["swaps"]["without"]), ("with swaps", part["swaps"]["with"]))
    ]
    text = table(("8 connections of one short text", "texts/s", "p50 ms", "p99 ms", "not answered with 200"), rows)
    took, count = part["swaps"]["until_live"], part["swaps"]["swaps"]
    return f"{text}\n{count} swaps; from the rename on the volume until the new generation answers: {took:.1f} s.\n"


def overload(part: Part) -> str:
    rows = [
        (
            name,
            f"{100 * found['throughput']:.0f}%",
            f"{100 * found['accepted'] / found['requests']:.0f}%",
            f"{1000 * found['p50']:,.0f}",
            f"{1000 * found['p99']:,.0f}",
            f"{1000 * found['refusal_p50']:.1f}" if found["refused"] else "",
            f"{1000 * found['refusal_p99']:.1f}" if found["refused"] else "",
            f"{found['retry_after']:.2f}" if found["refused"] else "",
            f"{found['other']:.0f}",
        )
        for name, found in part["loads"].items()
    ]
    head = ("of the capacity", "throughput", "accepted", "p50 ms", "p99 ms", "refused after ms, p50", "p99")
    text = table((*head, "Retry-After, said over true", "neither"), rows)
    return (
        f"{text}\nCapacity: {part['capacity']['texts_per_second']:,.0f} texts/s in a closed loop of requests of 8 "
        f"texts; the queue holds {part['queue_seconds']:.1f} s of it.\n"
    )


def idle(part: Part) -> str:
    first, others = part["idle"]["first"], part["idle"]["others"]
    counted = statistics.median(model["counted"] for model in part["models"])
    grew = statistics.median(model["host_grew"] for model in part["models"])
    return table(
        ("what a gateway takes", ""),
        [
            ("gateway process: listening after", f"{median(part['starts'], 'listening'):.2f} s"),
            ("ready, with its host", f"{median(part['starts'], 'ready'):.2f} s"),
            ("memory of the gateway process, idle", f"{first / 1e6:.0f} MB"),
            ("the same after load", f"{part['after_load']['first'] / 1e6:.0f} MB"),
            ("memory of the host, no model loaded", f"{others / 1e6:.0f} MB"),
            ("a MiniLM: its file", f"{part['file_bytes'] / 1e6:.0f} MB"),
            ("its bytes as the gateway counts them", f"{counted / 1e6:.0f} MB"),
            ("by how much its host grew", f"{grew / 1e6:.0f} MB"),
            ("CPU of an idle system, of one core", f"{100 * part['idle_share']:.2f}%"),
            ("the same with models loaded", f"{100 * part['idle_share_loaded']:.2f}%"),
        ],
    )


def knowledge(part: Part) -> str:
    return table(
        (
            "chunks",
            "search p50, p99",
            "hybrid",
            "in memory",
            "made in",
            "filtered",
            "numpy, all",
            "recall@10",
            "put",
            "finish",
            "memory",
            "disk",
        ),
        [
            (
                f"{row['chunks']:,}",
                *(
                    f"{1e3 * row[kind]['p50']:.1f}, {1e3 * row[kind]['p99']:.1f} ms"
                    for kind in ("vector", "hybrid", "held")
                ),
                f"{row['held_made']:.1f} s",
                *(f"{1e3 * row[kind]['p50']:.1f} ms" for kind in ("filtered", "brute")),
                f"{row['recall']:.3f}",
                f"{row['put_per_second']:,.0f}/s",
                f"{row['finish']:.1f} s",
                f"{row['resident'] / 1e6:.0f} MB",
                f"{row['disk'] / 1e6:.0f} MB",
            )
            for row in part["rows"]
        ],
    )


def training(part: Part) -> str:
    """Two tables: side by side, and over the data's size."""
    low, high = min(part["ratios"]), max(part["ratios"])
    cells = [
        (name, *(f"{median(cell[side], SPEED):.2f}" for side in (OURS, PLAIN)), f"{low:.2f} to {high:.2f}")
        for name, cell in part["cells"].items()
    ]
    sizes = [
        (f"{row['pairs']:,}", f"{row['steps']}", f"{row['seconds']:.0f}", f"{1000 * row['seconds'] / row['pairs']:.0f}")
        for row in part["sizes"]
    ]
    beside = table(("steps per second", OURS, PLAIN, "ratio, round by round"), cells)
    return f"{beside}\n{table(('pairs, one epoch', 'steps', 'seconds', 'seconds for 1,000'), sizes)}"


def _quantiles(seconds: Mapping[str, float]) -> str:
    return f"{1e3 * seconds['p50']:.1f}, {1e3 * seconds['p99']:.1f} ms"


def ingestion(part: Part) -> str:
    rows = []
    for name, way in (("into a knowledge base", "ingest"), ("embedded alone", "embed")):
        rates = [each["chunks"] / each[way]["seconds"] for each in part["rounds"]]
        cpu = [[1000 * seconds / each["chunks"] for seconds in each[way]["cpu"].values()] for each in part["rounds"]]
        own, others = (statistics.median(values) for values in zip(*cpu, strict=True))
        rows.append((name, f"{statistics.median(rates):,.0f}", f"{own:.2f} ms", f"{others:.2f} ms"))
    chunks = part["rounds"][0]["chunks"]
    made = table((f"{part['documents']} documents, {chunks:,} chunks", "chunks/s", "CPU, gateway", "CPU, others"), rows)
    over = statistics.median(each["embed"]["seconds"] / each["ingest"]["seconds"] for each in part["rounds"])
    return f"{made}\nOver the embedding alone, the middle of the rounds: {over:.2f}.\n"


def on_devices(part: Part) -> str:
    rows = [
        (
            name,
            *(f"{median(cell[side], 'texts_per_second'):,.1f}" for side in (devices.ONE, devices.TWO)),
            f"{ratio(cell, devices.TWO, devices.ONE):.2f}",
            f"{min(over := ratios(cell, devices.TWO, devices.ONE)):.2f} to {max(over):.2f}",
            *(f"{median(cell[devices.TWO], key):.2f}" if key in cell[devices.TWO][0] else "" for key in CORES),
        )
        for name, cell in part["cells"].items()
    ]
    head = ("texts/s", devices.ONE, devices.TWO, "ratio", "its rounds", "cores of the server", "of the generator")
    return f"{table(head, rows)}\n{part['models']} models in turn, on a machine of {part['cores']} cores.\n"


def adapters(part: Part) -> str:
    """Two tables: through HTTP, and in one process."""
    through = {name: cell for name, cell in part["cells"].items() if name != swapping.CELL}
    text = _of_adapters("64 connections of one short text", through)
    if inside := part["cells"].get(swapping.CELL):
        rows = [
            (side, f"{median(figures, 'texts_per_second'):,.0f}", f"{ratio(inside, swapping.TOGETHER, side):.2f}")
            for side, figures in inside.items()
        ]
        text += "\n" + table(("64 texts of 32 adapters, one thread", "texts/s", "ours over it"), rows)
    size = part["bytes"]
    return text + (f"\nAn adapter takes {size['on_device']:,} bytes on the device, its tensors {size['tensors']:,}.\n")


def registered(part: Part) -> str:
    cells = {f"{count} adapters": {"": side} for count, side in part["cells"]["registered"].items()}
    text = _of_adapters(f"64 connections, {part['slots']} slots", cells)
    return f"{text}\n{part['counts'][-1]:,} that were dropped at once had answered after {part['ready']:.0f} s.\n"


def _of_adapters(title: str, cells: Mapping[str, Cell]) -> str:
    rows = [
        (
            f"{name}: {side}" if side else name,
            f"{median(figures, 'texts_per_second'):,.0f}",
            f"{1000 * median(figures, 'p50'):.1f}",
            f"{1000 * median(figures, 'p95'):.1f}",
        )
        for name, cell in cells.items()
        for side, figures in cell.items()
    ]
    return table((title, "texts/s", "p50 ms", "p95 ms"), rows)


def generating(part: Part) -> str:
    """Three tables: rows, adapters, and through HTTP."""
    rows = {name: cell for name, cell in part["cells"].items() if spoken_of.OURS in cell}
    voices = {name: cell for name, cell in part["cells"].items() if spoken_of.MIXED in cell}
    text = _sides(f"tokens/s, answers of {part['tokens']} tokens", rows)
    text += "".join(f"\n{side} is not there: {why}\n" for side, why in part["missing"].items())
    text += "\n" + _sides("tokens/s of as many texts", voices)
    shares = [
        (name, *(f"{ratio(cell, spoken_of.MIXED, side, TOKENS):.2f}" for side in (spoken_of.BASE, spoken_of.SWAPPING)))
        for name, cell in voices.items()
    ]
    text += "\n" + table(("mixed batches over", spoken_of.BASE, spoken_of.SWAPPING), shares)
    http = [
        (name, f"{found[TOKENS]:,.0f}", f"{1000 * found['first_p50']:,.0f}", f"{1000 * found['first_p99']:,.0f}")
        for name, found in part["http"].items()
    ]
    text += "\n" + table(("through HTTP, streamed", "tokens/s", "first token p50 ms", "p99 ms"), http)
    held, stored = part["voice_bytes"], part["voice_file_bytes"]
    return f"{text}\nAn adapter takes {held / 1e3:,.0f} kB; its tensors in the file have {stored / 1e3:,.0f} kB.\n"


def _sides(title: str, cells: Mapping[str, Cell]) -> str:
    sides = dict.fromkeys(side for cell in cells.values() for side in cell)
    rows = [
        (side, *(f"{median(cell[side], TOKENS):,.0f}" if side in cell else "" for cell in cells.values()))
        for side in sides
    ]
    return table((title, *cells), rows)


BLOCKS: Final[dict[str, tuple[str, Callable[[Part], str]]]] = {
    "limit": ("limit", limit),
    "in process": ("inprocess", inprocess),
    "through http": ("http", http),
    "peers": ("peers", peers),
    "many models": ("models", models),
    "devices": ("devices", on_devices),
    "adapters": ("adapters", adapters),
    "registered": ("registered", registered),
    "loads": ("loads", loads),
    "swaps": ("loads", swaps),
    "overload": ("overload", overload),
    "idle": ("memory", idle),
    "knowledge": ("knowledge", knowledge),
    "training": ("training", training),
    "ingestion": ("ingestion", ingestion),
    "generating": ("generating", generating),
}
