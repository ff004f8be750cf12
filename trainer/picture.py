"""A run's curves as one PNG, for where a page cannot be shown: an issue, a chat, a slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from trainer import charts
from trainer.errors import InvalidInput
from trainer.record import Record, read
from trainer.run import RunDirectory

MAIN, RAW, SECOND, THIRD, BEFORE = "#2467d1", "#b9cdf0", "#c2571a", "#2d8a5f", "#a9b4c4"
SIZE: Final = (11.0, 7.0)  # inches
DOTS: Final = 130  # an inch


def draw(run: RunDirectory, out: Path) -> Path:
    """Raises InvalidInput where matplotlib is not installed, or nothing has been logged yet."""
    try:
        import matplotlib as drawing  # noqa: PLC0415  an extra
    except ImportError as error:
        raise InvalidInput("--png needs matplotlib: pip install 'dropgate[plots]'") from error
    drawing.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    record = read(run)
    if not record.lines:
        raise InvalidInput(f"{run.metrics}: nothing to draw yet")
    figure, axes = pyplot.subplots(2, 2, figsize=SIZE, layout="constrained")
    try:
        figure.suptitle(f"{record.name}: {record.status}".replace("$", r"\$"), fontsize=13, x=0.01, ha="left")
        _loss(axes[0][0], record)
        (spoken if record.speaks else _evaluations)(axes[0][1], record)
        _one(axes[1][0], record, "learning_rate", "learning rate")
        _scores(axes[1][1], record) if record.comparison else _one(
            axes[1][1], record, "steps_per_second", "steps per second"
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=DOTS, format="png")
    finally:
        pyplot.close(figure)
    return out


def _loss(axes: Any, record: Record) -> None:
    points = record.curve("loss")
    _plot(axes, points, color=RAW, linewidth=1, label="as logged")
    _plot(axes, charts.smoothed(points), color=MAIN, linewidth=2, label="smoothed")
    _dress(axes, "loss", bool(points))


def _evaluations(axes: Any, record: Record) -> None:
    for metric, color in (("mrr@10", MAIN), ("ndcg@10", SECOND), ("hit@1", THIRD)):
        _plot(axes, record.curve(metric), color=color, marker="o", markersize=3.5, label=metric)
    if best := max(record.curve(record.watched), key=lambda point: (point[1], -point[0]), default=None):
        axes.plot(*best, "o", markersize=10, fillstyle="none", color="#1c2430")
        axes.annotate(f"{best[1]:.3f}", best, textcoords="offset points", xytext=(0, 9), ha="center", fontsize=9)
    _dress(axes, "scores at each evaluation", bool(record.evaluations()))


def spoken(axes: Any, record: Record) -> None:
    """Of a language model, at each evaluation."""
    for key, color, label in (("held_out_loss", MAIN, "loss"), ("exact_match", THIRD, "right word for word")):
        _plot(axes, record.curve(key), color=color, marker="o", markersize=3.5, label=label)
    axes.set_ylim(bottom=0)
    _dress(axes, "held out", bool(record.curve("held_out_loss")))


def _one(axes: Any, record: Record, key: str, title: str) -> None:
    _plot(axes, record.curve(key), color=MAIN)
    axes.set_ylim(bottom=0)
    _dress(axes, title, False)


def _scores(axes: Any, record: Record) -> None:
    assert record.comparison is not None
    from trainer.bootstrap import interval  # noqa: PLC0415
    from trainer.scores import METRICS  # noqa: PLC0415

    for place, (name, scores, color) in enumerate(
        (("before", record.comparison.before, BEFORE), ("after", record.comparison.after, MAIN))
    ):
        values = [scores.of(metric) for metric in METRICS]
        ends = [interval(scores, metric) for metric in METRICS]
        low = [value - end[0] for value, end in zip(values, ends, strict=True)]
        high = [end[1] - value for value, end in zip(values, ends, strict=True)]
        at = [number + 0.38 * place - 0.19 for number in range(len(METRICS))]
        axes.bar(at, values, 0.36, yerr=(low, high), color=color, label=name, error_kw={"elinewidth": 1, "capsize": 3})
    axes.set_xticks(range(len(METRICS)), METRICS, fontsize=9)
    axes.set_ylim(0, 1.03)
    _dress(axes, "before and after, with 95% intervals", False, over_steps=False)
    above = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}  # bars may be anywhere below
    axes.legend(frameon=False, fontsize=9, borderaxespad=0.1, **above)


def _plot(axes: Any, points: list[charts.Point], **style: Any) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _dress(axes: Any, title: str, legend: bool, over_steps: bool = True) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e3e6eb")
    axes.set_axisbelow(True)
    if over_steps:
        axes.set_xlabel("step", fontsize=9)
    if legend:
        axes.legend(frameon=False, fontsize=9)
