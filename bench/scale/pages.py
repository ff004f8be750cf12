"""A report of the simulation in `docs/scale.md`: tables between `<!-- NAME -->` and `<!-- end -->`, and pictures. The
report is kept beside the page, so that a test can hold the one to the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.chart import Panel, picture
from bench.pages import BLOCK, DOCS
from bench.scale.grid import WEIGHED
from bench.scale.rivals import BEFORE, OURS
from bench.tables import table

PAGE: Final = "scale.md"
FIGURES: Final = "scale.json"
PREFIX: Final = "simulated "  # of the blocks: the page has others
PICTURES: Final = {  # what each shows, for those who cannot see it
    "scale-sizes.svg": "Hit rate, longest waits and imbalance of each policy, over the number of devices and models",
    "scale-alphas.svg": "Wait and loads over how uneven the popularity of models is, and over how busy the devices are",
    "scale-weights.svg": "Mean wait and loads, over what a load counts beside waiting as long",
    "scale-choosing.svg": "Microseconds of the gateway's own time for a choice, over the number of devices",
}
AXIS: Final = "devices / models"
Rows = Sequence[Mapping[str, Any]]
Number = Callable[[float], str]


def blocks(report: Mapping[str, Any]) -> dict[str, str]:
    """Name of a block -> its text; of a part that was not run, that it was not."""
    parts = report["parts"]
    made = dict.fromkeys(("sizes", "weights", "gateways", "deaths", "crowd", "choosing", "devices"), "Not simulated.\n")
    made["machine"] = machine(report)
    made |= {name: compared(parts[name]) for name in ("sizes", "weights", "gateways") if name in parts}
    made |= {name: stormed(parts[name]) for name in ("deaths", "crowd") if name in parts}
    if "choosing" in parts:
        made["choosing"] = chosen(parts["choosing"])
    if "devices" in parts:
        made["devices"] = two(parts["devices"])
    made["pictures"] = "\n".join(f"![{PICTURES[name]}](pictures/{name})\n" for name in pictures(report))
    return {PREFIX + name: text for name, text in made.items()}


def filled(page: str, report: Mapping[str, Any]) -> str:
    """The page with the blocks of this report made anew, and those of others as they are."""
    made = blocks(report)
    return BLOCK.sub(lambda found: found[1] + made[found[2]] + found[3] if found[2] in made else found[0], page)


def write(report: Mapping[str, Any], docs: Path = DOCS) -> None:
    """Figures, page and pictures."""
    (docs / FIGURES).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    page = docs / PAGE
    page.write_text(filled(page.read_text(encoding="utf-8"), report), encoding="utf-8")
    for name, text in pictures(report).items():
        (docs / "pictures" / name).write_text(text, encoding="utf-8")


def machine(report: Mapping[str, Any]) -> str:
    costs = report["costs"]
    return (
        f"* Service times, measured on {costs['machine']}: {1e3 * costs['call']:.1f} ms for a device call and "
        f"{1e6 * costs['token']:.0f} µs for each token of a MiniLM in it; {1e3 * costs['load']:.0f} ms for a load and "
        f"{1e9 * costs['byte']:.2f} s for each GB of it.\n"
        f"* {report['seeds']} seeds; ± is half of the 95% interval of the mean. {report['date']}, commit "
        f"{report['machine']['commit'] or 'unknown'}.\n"
    )


def compared(rows: Rows) -> str:
    columns: tuple[tuple[str, str, Number], ...] = (
        ("found loaded", "hit_rate", lambda value: f"{100 * value:.1f}%"),
        ("loads/s", "loads_per_second", _three),
        ("MB/s read", "bytes_per_second", lambda value: _three(value / 1e6)),
        ("wait p50 s", "wait_p50", _seconds),
        ("p99 s", "wait_p99", _seconds),
        ("mean s", "wait_mean", _seconds),
        ("the mean, over the first row's of the same seed", "wait_over_first", lambda value: f"{value:.2f}"),
        ("busiest device over the mean", "imbalance", lambda value: f"{value:.2f}"),
        ("memory held, of the budget", "most_over_budget", lambda value: f"{value:.2f}"),
        ("refused", "failed", lambda value: f"{value:,.0f}"),
    )
    return _table("", rows, columns)


def stormed(rows: Rows) -> str:
    columns: tuple[tuple[str, str, Number], ...] = (
        ("most loads begun in a second", "storm", _three),
        ("of them on one device", "piled", _three),
        ("wait p99 in the ten seconds after, s", "storm_p99", _seconds),
        ("p99 of all, s", "wait_p99", _seconds),
        ("mean s", "wait_mean", _seconds),
        ("the mean, over the first row's of the same seed", "wait_over_first", lambda value: f"{value:.2f}"),
        ("loads/s", "loads_per_second", _three),
        ("refused", "failed", lambda value: f"{value:,.0f}"),
    )
    return _table("", rows, columns)


def chosen(rows: Rows) -> str:
    return table(
        ("µs for a choice", "devices", "of a loaded model", "of one that is nowhere"),
        ((row["policy"], f"{row['devices']:,}", f"{row['held_us']:.1f}", f"{row['missing_us']:,.0f}") for row in rows),
    )


def two(rows: Rows) -> str:
    work = {row["row"]: row["figures"]["work_per_second"] for row in rows}
    text = table(
        ("devices", "seconds of device calls in a second"),
        ((name, _with(value, lambda each: f"{each:.2f}")) for name, value in work.items()),
    )
    return f"{text}\nTwo over one: {work['2'][0] / work['1'][0]:.2f}.\n"


def _table(title: str, rows: Rows, columns: Sequence[tuple[str, str, Number]]) -> str:
    lines, last = [], ""
    for row in rows:
        figures = row["figures"]
        shown = [_with(figures[key], number) for _, key, number in columns]
        lines.append(("" if row["row"] == last else row["row"], row["policy"], *shown))
        last = row["row"]
    head = (title, "policy", *(name for name, _, _ in columns))
    return table(head, lines).replace("| --- | ---: |", "| --- | --- |", 1)


def _with(value: Sequence[float], number: Number) -> str:
    mean, half = value
    return f"{number(mean)} ± {number(half)}" if half else number(mean)


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def pictures(report: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SVG, of the parts that were run."""
    parts, made = report["parts"], {}
    if sizes := parts.get("sizes"):
        panels = [
            _panel(sizes, Panel("Found loaded", "% of requests", AXIS, (), {}), "hit_rate", 100),
            _panel(sizes, Panel("Waiting, 99th percentile", "seconds", AXIS, (), {}, True), "wait_p99"),
            _panel(sizes, Panel("Imbalance", "busiest device over the mean", AXIS, (), {}), "imbalance"),
        ]
        made["scale-sizes.svg"] = picture("More devices, more models", panels)
    panels = []
    for part, axis in (("alphas", "Zipf's exponent"), ("loads", "share of the devices' time that is asked for")):
        if rows := parts.get(part):
            panels.append(_panel(rows, Panel("Waiting, mean", "seconds", axis, (), {}, True), "wait_mean"))
            panels.append(_panel(rows, Panel("Loads", "a second", axis, (), {}), "loads_per_second"))
    if panels:
        made["scale-alphas.svg"] = picture("10 devices, 1,000 models", panels)
    if (crowd := parts.get("crowd")) and (weights := parts.get("weights")):
        made["scale-weights.svg"] = _weights(crowd, weights)
    if choosing := parts.get("choosing"):
        made["scale-choosing.svg"] = _choosing(choosing)
    return made


def _panel(rows: Rows, blank: Panel, key: str, times: float = 1) -> Panel:
    """`blank`, with a series of the figure `key` for each policy."""
    labels = list(dict.fromkeys(row["row"] for row in rows))
    series = {
        policy: [
            next(
                (times * row["figures"][key][0] for row in rows if (row["row"], row["policy"]) == (label, policy)), None
            )
            for label in labels
        ]
        for policy in dict.fromkeys(row["policy"] for row in rows)
    }
    return replace(blank, labels=[_short(label) for label in labels], series=series)


def _short(label: str) -> str:
    """10 devices, 1,000 models -> 10/1k"""
    words = label.split(", ")
    if len(words) != 2:
        return label
    return "/".join(word.split()[0].replace(",000", "k") for word in words)


def _weights(crowd: Rows, weights: Rows) -> str:
    waits, loads = "wait_mean", "loads_per_second"
    axis, turned, plain = "what a load counts", "most clients turn to one model", "10 devices, 1,000 models"
    labels, of_crowd = _weighed(crowd)
    _, of_plain = _weighed(weights)
    panels = [
        Panel(
            title,
            unit,
            axis,
            labels,
            {turned: [each[key][0] for each in of_crowd], plain: [each[key][0] for each in of_plain]},
        )
        for title, unit, key in (("Waiting, mean", "seconds", waits), ("Loads", "a second", loads))
    ]
    return picture("What a load counts beside waiting as long", panels)


def _weighed(rows: Rows) -> tuple[list[str], list[Mapping[str, Sequence[float]]]]:
    """The weights of a load, and the figures of each."""
    found = {
        float(row["policy"].removeprefix(WEIGHED)): row["figures"] for row in rows if row["policy"].startswith(WEIGHED)
    }
    return [f"{weight:g}" for weight in sorted(found)], [found[weight] for weight in sorted(found)]


def _choosing(rows: Rows) -> str:
    labels = list(dict.fromkeys(f"{row['devices']:,}" for row in rows))
    panels = [
        Panel(
            title,
            "microseconds",
            "devices",
            labels,
            {policy: [row[key] for row in rows if row["policy"] == policy] for policy in (OURS, BEFORE)},
            logarithmic=True,
        )
        for title, key in (("Of a loaded model", "held_us"), ("Of one that is nowhere", "missing_us"))
    ]
    return picture("What a choice costs the gateway", panels)
