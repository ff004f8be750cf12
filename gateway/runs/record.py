"""What a run's directory tells, also while it goes: what is missing, cut or strange is left out, and never an error.

Whoever trains writes these files, and may have written anything: each is read up to a bound and field by field.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from gateway.runs import links, scores
from gateway.runs.curves import curves
from gateway.runs.foreign import document, fields, moment, number, plain, read, text, whole
from gateway.runs.places import Run
from gateway.volume.files import safe_relative

SMALL: Final = 1024**2  # bytes of progress, settings and lineage
METRICS: Final = 16 * 1024**2
SCORES: Final = 8 * 1024**2  # some 10,000 questions; of more there is the short form in the progress
LOG_TAIL: Final = 16 * 1024
LOG_LINES: Final = 60
QUIET: Final = 300.0  # seconds without a word, after which a run that says it goes on has likely been killed
WORDS: Final = {  # of both kinds of run
    "queued": "queued",
    "running": "running",
    "training": "running",
    "completed": "completed",
    "interrupted": "interrupted",
    "cancelled": "interrupted",
    "failed": "failed",
}
GOING_ON: Final = frozenset({"queued", "running"})


def summary(run: Run, now: float) -> dict[str, Any]:
    """A run as the list of runs has it. Blocking, as all that reads. `now` in Unix seconds."""
    config = _config(run)
    told = document(read(run.path, _name(config, "progress_file"), SMALL))
    lineage = document(read(run.path, "lineage.json", SMALL))
    return _summary(run, config, told, lineage, now)


def detail(run: Run, now: float) -> dict[str, Any]:
    """The same, with curves, all scores, lineage, settings and the end of the log."""
    config, sources = _config(run), fields(document(read(run.path, "resolved_config.json", SMALL)).get("sources"))
    told = document(read(run.path, _name(config, "progress_file"), SMALL))
    lineage = document(read(run.path, "lineage.json", SMALL))
    metrics = read(run.path, _name(config, "metrics_file"), METRICS)
    scored = document(read(run.path, "scores.json", SCORES))
    shown = _summary(run, config, told, lineage, now)
    return {
        **shown,
        "difference": shown["difference"] or scores.difference(scored.get("difference")),
        "curves": curves(metrics or b""),
        "scores": scores.whole_story(scored),
        "lineage": _lineage(lineage),
        "settings": _settings(config, sources),
        "log": _log(run, config),
    }


def _summary(
    run: Run, config: Mapping[str, Any], told: Mapping[str, Any], lineage: Mapping[str, Any], now: float
) -> dict[str, Any]:
    status = WORDS.get(str(told.get("status")), "unknown")
    spoke = _last_word(run, config)
    quiet = max(0.0, now - spoke) if spoke is not None and status in GOING_ON else None
    return {
        "id": run.id,
        "name": run.name,
        "path": run.path,
        "kind": "language" if "qlora" in config or "job_id" in told else "embedding",
        "status": status,
        "stalled": quiet is not None and quiet > QUIET,
        "quiet_seconds": None if quiet is None else round(quiet, 1),
        "base": _base(config, told, lineage),
        "step": whole(told.get("step")),
        "steps": whole(told.get("steps")) or whole(told.get("step")),
        "epoch": number(told.get("epoch")),
        "epochs": number(told.get("num_epochs")),
        "loss": number(told.get("loss")),
        "train_examples": whole(told.get("train_examples")),
        "held_out_examples": whole(told.get("eval_examples")),
        **scores.short(told),
        "started_at": moment(told.get("started_at")),
        "completed_at": moment(told.get("completed_at")),
        "updated_at": spoke,
        "duration_seconds": number(told.get("duration_seconds")),
        "made_from": links.trace(lineage),
        "error": text(told.get("error") or told.get("error_message"), 2000),
    }


def _config(run: Run) -> dict[str, Any]:
    return fields(document(read(run.path, "resolved_config.json", SMALL)).get("config"))


def _name(config: Mapping[str, Any], key: str) -> str:
    """Where a run's own settings put a file, below its directory."""
    usual = {
        "progress_file": "training_progress.json",
        "metrics_file": "training_metrics.jsonl",
        "log_file": "logs/embedding_finetuning.log",
    }[key]
    told = config.get(key)
    return (safe_relative(told) if isinstance(told, str) else None) or usual


def _last_word(run: Run, config: Mapping[str, Any]) -> float | None:
    """When it last wrote down how far it is: by this machine's file system, not by the clock of whoever trains."""
    times = []
    for key in ("progress_file", "metrics_file"):
        try:
            times.append(os.lstat(os.path.join(run.path, _name(config, key))).st_mtime)
        except OSError:
            continue
    return max(times, default=None)


def _base(config: Mapping[str, Any], told: Mapping[str, Any], lineage: Mapping[str, Any]) -> str | None:
    """As others know it: of a path on the machine that trained, its last part."""
    named = fields(lineage.get("base")).get("name") or config.get("base_model") or told.get("base_model")
    found = text(named, 200)
    return (found.rstrip("/").rpartition("/")[2] or found) if found and found.startswith("/") else found


def _lineage(lineage: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("base", "data", "validation", "examples", "seed", "versions", "command", "organization")
    return {key: plain(lineage[key]) for key in shown if key in lineage}


def _settings(config: Mapping[str, Any], sources: Mapping[str, Any]) -> dict[str, Any]:
    """What was not left as it is by default."""
    chosen = {key: value for key, value in config.items() if sources.get(key, "default") != "default"}
    return dict(plain(chosen))


def _log(run: Run, config: Mapping[str, Any]) -> list[str]:
    """The last lines in words."""
    names = [_name(config, "log_file"), "logs/language_finetuning.log"]
    content = next((found for name in names if (found := read(run.path, name, LOG_TAIL, end=True))), b"")
    lines = content.decode(errors="replace").splitlines()
    whole_lines = lines[1:] if len(content) == LOG_TAIL else lines
    return [text(line, 400) or "" for line in whole_lines[-LOG_LINES:]]
