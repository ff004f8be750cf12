"""A run's directory: where everything that a training run makes is kept, and how each file stays true.

config.json               the resolved settings, and where each came from
lineage.json              base, data, versions, seeds, command: what this run came from
training_progress.json    how far it is, also while it runs; replaced whole
training_metrics.jsonl    a line for each log: timestamp, epoch, step, loss, scores
logs/embedding_finetuning.log
checkpoints/checkpoint-N/
adapter/                  the adapter before it was merged, of a LoRA run
final_model/              what is served and published
scores.json               held-out scores before and after, for each query, with intervals
report.html
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def now() -> str:
    """UTC with microseconds, as `2026-11-20T11:48:34.061452Z`."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def write_json(path: Path, document: Any) -> None:
    """Replaces the file whole: whoever reads it meanwhile sees the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("x", encoding="utf-8") as stream:
            stream.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def append_json(path: Path, document: Any) -> None:
    """One more line. A line that was cut by a crash before is ended first, so that it spoils no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        if stream.tell() > 0:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(document, ensure_ascii=False, allow_nan=False).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The places of a run's files. Nothing is made before something is written."""

    path: Path
    progress_file: Path = Path("training_progress.json")
    metrics_file: Path = Path("training_metrics.jsonl")
    log_file: Path = Path("logs/embedding_finetuning.log")

    @property
    def config(self) -> Path:
        return self.path / "resolved_config.json"

    @property
    def lineage(self) -> Path:
        return self.path / "lineage.json"

    @property
    def progress(self) -> Path:
        return self.path / self.progress_file

    @property
    def metrics(self) -> Path:
        return self.path / self.metrics_file

    @property
    def log(self) -> Path:
        return self.path / self.log_file

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def final_model(self) -> Path:
        return self.path / "final_model"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"
