"""`report.html` of a run: one file that needs nothing else, and is right at every moment of the run.

It is written anew at each evaluation, and while the run goes the page reloads itself. It holds no script and asks
nothing of any network; a policy inside says so to the browser. All texts are escaped.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from trainer import charts
from trainer.bootstrap import interval
from trainer.charts import Bar, Curve
from trainer.comparison import Comparison, Move
from trainer.printable import printable
from trainer.record import Record, read
from trainer.report_style import STYLE
from trainer.run import RunDirectory, now
from trainer.scores import METRICS

RELOAD_SECONDS: Final = 5
CHANGES: Final = (  # of the rank of a query's first right document: name, least, most; up is better
    ("-10…", -(10**9), -10),
    ("-9…-4", -9, -4),
    ("-3…-2", -3, -2),
    ("-1", -1, -1),
    ("same", 0, 0),
    ("+1", 1, 1),
    ("+2…3", 2, 3),
    ("+4…9", 4, 9),
    ("+10…", 10, 10**9),
)


def write_report(run: RunDirectory) -> Path:
    """Replaces the page whole. Raises InvalidInput when there is no run."""
    text = page(read(run))
    draft = run.report.with_name(f".{run.report.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("x", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(draft, run.report)
    finally:
        draft.unlink(missing_ok=True)
    return run.report


def page(record: Record) -> str:
    live = record.goes_on
    reload = f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">' if live else ""
    sections = [_head(record), _scores(record), _curves(record), _queries(record), _settings(record), _lineage(record)]
    foot = f"<footer>written {_text(now())}{', and again at each evaluation' if live else ''}</footer>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        'content="light dark"><meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'unsafe-inline'\">{reload}<title>{_text(record.name)}: training run</title>"
        f"<style>{STYLE}</style></head><body><main>{''.join(sections)}{foot}</main></body></html>\n"
    )


def _text(value: Any) -> str:
    return escape(printable(str(value)))


def _head(record: Record) -> str:
    told = record.progress
    facts = [
        ("base", record.base),
        ("examples", _counts(told)),
        ("method", _method(record.config)),
        ("step", " of ".join(str(told[key]) for key in ("step", "steps") if told.get(key))),
        ("duration", duration(told.get("duration_seconds"))),
        ("updated", str(told.get("updated_at") or "")[:19].replace("T", " ")),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in facts if value)
    state = f'<span class="state {_text(record.status)}">{_text(record.status)}</span>'
    error = f'<p class="error">{_text(told["error"])}</p>' if told.get("error") else ""
    headline = _headline(record.comparison) or _spoken(record)
    return f"<header><h1>{_text(record.name)} {state}</h1>{headline}{error}<dl>{listed}</dl></header>"


def _headline(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    change, metric = comparison.difference, comparison.metric
    sure = "gain" if change.low > 0 else "loss" if change.high < 0 else "unsure"
    said = {"gain": "", "loss": "", "unsure": ", so it may be luck"}[sure]
    return (
        f'<p class="headline {sure}"><span>{_text(metric)}</span> {comparison.before.of(metric):.3f} → '
        f"<b>{comparison.after.of(metric):.3f}</b> <em>{change.mean:+.3f}</em> "
        f"<small>95% interval {change.low:+.3f} to {change.high:+.3f}{said}; {_p(change.p)}; "
        f"{len(comparison.after.each_query)} queries over {comparison.after.documents} documents</small></p>"
    )


def _spoken(record: Record) -> str:
    """Of a language model: less loss is better."""
    told = record.progress
    before, after, exact = told.get("before"), told.get("after"), told.get("exact_match")
    if not record.speaks or not isinstance(before, float) or not isinstance(after, float):
        return ""
    right = f"right word for word {exact['before']:.0%} → {exact['after']:.0%}" if isinstance(exact, dict) else ""
    return (
        f'<p class="headline {"gain" if after < before else "loss"}"><span>loss {_text(told.get("judged", ""))}</span> '
        f"{before:.3f} → <b>{after:.3f}</b> <em>{after - before:+.3f}</em> "
        f"<small>perplexity {math.exp(min(before, 700)):.4g} → {math.exp(min(after, 700)):.4g}; {right}</small></p>"
    )


def _p(p: float) -> str:
    return "p &lt; 0.001" if p < 0.001 else f"p {p:.3f}"


def _counts(told: Mapping[str, Any]) -> str:
    train, held_out = told.get("train_examples"), told.get("eval_examples")
    return ", ".join([f"{train} to train on"] * bool(train) + [f"{held_out} held out"] * bool(held_out))


def _method(config: Mapping[str, Any]) -> str:
    if not config:
        return ""
    if "qlora" in config:
        return f"{'QLoRA' if config['qlora'] else 'LoRA'}, rank {config.get('lora_r')}"
    return f"LoRA, rank {config.get('lora_r')}" if config.get("lora") else "all weights"


def duration(seconds: Any) -> str:
    """`1:02:03`; nothing for what is no number."""
    if not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        return ""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _scores(record: Record) -> str:
    if record.comparison is None:
        return ""
    before, after = record.comparison.before, record.comparison.after
    rows = [(m, Bar(before.of(m), *interval(before, m)), Bar(after.of(m), *interval(after, m))) for m in METRICS]
    legend = '<p class="legend"><i class="before"></i>before <i class="after"></i>after; lines are 95% intervals</p>'
    changes = '<p class="legend">places that the first right document of a query went up (+) or down (-)</p>'
    return _section(
        "Before and after",
        [
            _card("Scores", charts.bars("scores before and after", rows) + legend),
            _card("Rank of each query", charts.columns("changes of rank", _changes(record.comparison)) + changes),
        ],
    )


def _changes(comparison: Comparison) -> list[tuple[str, int, str]]:
    moved = [move.before - move.after for move in comparison.moves()]
    kinds = {-1: "lost", 0: "same", 1: "gained"}
    return [
        (name, sum(low <= change <= high for change in moved), kinds[(low > 0) - (high < 0)])
        for name, low, high in CHANGES
    ]


def _curves(record: Record) -> str:
    loss, rate, speed = (record.curve(key) for key in ("loss", "learning_rate", "steps_per_second"))
    cards = []
    if loss:
        both = [Curve("raw", loss, "raw"), Curve("smoothed", charts.smoothed(loss), "main")]
        legend = '<p class="legend"><i class="raw"></i>as logged <i class="main"></i>smoothed</p>'
        cards.append(_card("Loss", charts.lines("loss over steps", both) + legend))
    cards += _held_out(record)
    if evaluated := _evaluated(record):
        cards.append(_card("Scores at each evaluation", evaluated))
    if rate:
        cards.append(_card("Learning rate", charts.lines("learning rate over steps", [Curve("rate", rate, "main")])))
    if speed:
        cards.append(
            _card("Steps per second", charts.lines("speed over steps", [Curve("speed", speed, "main")], from_zero=True))
        )
    return _section("Training", cards)


def _held_out(record: Record) -> Iterator[str]:
    """Of a language model, at each evaluation."""
    for key, title in (
        ("held_out_loss", "Held-out loss"),
        ("perplexity", "Perplexity"),
        ("exact_match", "Exact answers"),
    ):
        if points := record.curve(key):
            best = min(points, key=lambda point: (point[1], point[0])) if key == "held_out_loss" else None
            drawn = charts.lines(f"{title.lower()} over steps", [Curve(key, points, "main", dots=True)], best)
            told = f'<p class="legend">lowest {best[1]:.4f} at step {best[0]:g}</p>' if best else ""
            yield _card(title, drawn + told)


def _evaluated(record: Record) -> str:
    metric = record.watched
    shown = [(metric, "main"), *[(m, kind) for m, kind in (("ndcg@10", "second"), ("hit@1", "third")) if m != metric]]
    if metric == "ndcg@10":
        shown[1] = ("mrr@10", "second")
    curves = [Curve(name, record.curve(name), kind, dots=True) for name, kind in shown]
    points = curves[0].points
    best = max(points, key=lambda point: (point[1], -point[0]), default=None)
    drawn = charts.lines("scores over steps", curves, best)
    named = " ".join(f'<i class="{curve.kind}"></i>{_text(curve.name)}' for curve in curves if curve.points)
    at = f"<br>best {_text(metric)} {best[1]:.4f} at step {best[0]:g}" if best else ""
    return drawn and f'{drawn}<p class="legend">{named}{at}</p>'


def _queries(record: Record) -> str:
    if record.comparison is None:
        return ""
    found = record.comparison
    tables = [
        ("Found worst now", found.worst()),
        ("Gained most", found.gained()),
        ("Lost most", found.lost()),
    ]
    return _section("Queries", [_card(title, _moves(moves)) for title, moves in tables], wide=True)


def _moves(moves: Iterable[Move]) -> str:
    rows = "".join(
        f'<li><p class="query"><bdi>{_text(move.query)}</bdi></p><p class="ranks">rank {move.before} → {move.after}</p>'
        f"<p><span>right</span> <bdi>{_text(move.answer)}</bdi></p>"
        + ("" if move.after == 1 else f"<p><span>came first</span> <bdi>{_text(move.found)}</bdi></p>")
        + "</li>"
        for move in moves
    )
    return f'<ol class="queries">{rows}</ol>' if rows else '<p class="legend">none</p>'


def _settings(record: Record) -> str:
    rows = [(key, _value(value), record.sources.get(key, "")) for key, value in record.config.items()]
    told = [row for row in rows if row[2] not in ("", "default")]
    rest = [row for row in rows if row not in told]
    if not rows:
        return ""
    more = (
        f"<details><summary>{len(rest)} at their defaults</summary>{_table(rest)}</details>" if told else _table(rest)
    )
    return _section("Settings", [_card("", (_table(told) if told else "") + more)], wide=True)


def _lineage(record: Record) -> str:
    rows = [(name, value, "") for name, value in _flat(record.lineage)]
    return _section("Lineage", [_card("", _table(rows))], wide=True) if rows else ""


def _flat(found: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested objects as `data.0.sha256`; a list of plain values stays one row."""
    if isinstance(found, dict) or (isinstance(found, list) and any(isinstance(each, dict | list) for each in found)):
        for key, value in found.items() if isinstance(found, dict) else enumerate(found):
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, _value(found)


def _value(value: Any) -> str:
    if value is None or value in ("", []):
        return "–"
    if isinstance(value, list):
        return " ".join(str(each) for each in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(rows: Sequence[tuple[str, str, str]]) -> str:
    return (
        "<table>"
        + "".join(
            f"<tr><th>{_text(name)}</th><td>{_text(value)}</td>"
            + (f"<td>{_text(source)}</td>" if any(row[2] for row in rows) else "")
            + "</tr>"
            for name, value, source in rows
        )
        + "</table>"
    )


def _card(title: str, inside: str) -> str:
    return f"<article>{f'<h3>{_text(title)}</h3>' if title else ''}{inside}</article>"


def _section(title: str, cards: Sequence[str], wide: bool = False) -> str:
    if not cards:
        return ""
    return (
        f'<section><h2>{_text(title)}</h2><div class="{"wide" if wide else "cards"}">{"".join(cards)}</div></section>'
    )
