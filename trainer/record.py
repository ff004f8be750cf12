"""What a run's files tell, also while it goes: whatever is missing, cut or strange is left out, and never an error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer.comparison import Comparison, read_comparison
from trainer.errors import InvalidInput, TrainerError
from trainer.run import RunDirectory
from trainer.scores import METRICS

Line = dict[str, Any]
Point = tuple[float, float]
MARKS: Final = ("training_progress.json", "resolved_config.json", "lineage.json", "training_metrics.jsonl")


@dataclass(frozen=True, slots=True)
class Record:
    """`lines` are those of the metrics, in their order; `comparison` is there when the run was evaluated to the end."""

    run: RunDirectory
    progress: dict[str, Any]
    config: dict[str, Any]
    sources: dict[str, str]
    lineage: dict[str, Any]
    lines: tuple[Line, ...]
    comparison: Comparison | None

    @property
    def name(self) -> str:
        return self.run.path.resolve().name

    @property
    def status(self) -> str:
        """running, completed, interrupted, failed, or unknown; of a job queued, training, completed, cancelled,
        failed."""
        return str(self.progress.get("status") or "unknown")

    @property
    def goes_on(self) -> bool:
        return self.status in ("running", "queued", "training")

    @property
    def speaks(self) -> bool:
        """Whether a language model is trained."""
        return "qlora" in self.config

    @property
    def base(self) -> str:
        """As others know it, where that is written down: a path says something on one machine only."""
        told = self.lineage.get("base")
        named = told.get("name") if isinstance(told, dict) else None
        return str(named or self.config.get("base_model") or self.progress.get("base_model") or "")

    @property
    def watched(self) -> str:
        """The metric by which the run chooses its best checkpoint."""
        told = self.config.get("best_by")
        return told if told in METRICS else "mrr@10"

    def curve(self, key: str) -> list[Point]:
        """(step, value) of every line that has both; a step that was done again after a kill counts once."""
        points = {line["step"]: float(line[key]) for line in self.lines if _is_number(line.get("step"), line.get(key))}
        return sorted(points.items())

    def evaluations(self) -> list[Line]:
        """The lines that have scores, one for each step."""
        scored = [line for line in self.lines if any(metric in line for metric in METRICS)]
        found = {line["step"]: line for line in scored if _is_number(line.get("step"))}
        return [found[step] for step in sorted(found)]


def read(run: RunDirectory) -> Record:
    """Raises InvalidInput when nothing there says that it is a run."""
    if not run.path.is_dir():
        raise InvalidInput(f"{run.path}: no such directory")
    if not is_run(run.path) and not run.progress.exists() and not run.metrics.exists():
        raise InvalidInput(f"{run.path}: not a training run: none of {', '.join(MARKS)} is there")
    resolved, lineage = _object(run.config), _object(run.lineage)
    config, sources = resolved.get("config"), resolved.get("sources")
    return Record(
        run,
        _object(run.progress),
        config if isinstance(config, dict) else {},
        sources if isinstance(sources, dict) else {},
        lineage,
        tuple(_lines(run.metrics)),
        _comparison(run.scores),
    )


def is_run(directory: Path) -> bool:
    return any((directory / name).is_file() for name in MARKS)


def located(path: Path) -> RunDirectory:
    """The run at a path, its files where its own settings put them."""
    config = _object(RunDirectory(path).config).get("config")
    told = config if isinstance(config, dict) else {}
    names = {
        key: Path(told[key]) for key in ("progress_file", "metrics_file", "log_file") if isinstance(told.get(key), str)
    }
    return RunDirectory(path, **names)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> Iterator[Line]:
    try:
        written = path.read_bytes().split(b"\n")
    except OSError:
        return
    for each in written:
        try:
            line = json.loads(each)
        except (ValueError, RecursionError):  # blank, or cut by a crash
            continue
        if isinstance(line, dict):
            yield line


def _comparison(path: Path) -> Comparison | None:
    try:
        return read_comparison(path)
    except TrainerError:
        return None


def _is_number(*values: Any) -> bool:
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
