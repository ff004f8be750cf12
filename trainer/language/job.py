"""A run as the job that somebody ordered: the fields that the earlier training service had, in the run's progress, and
true in every version of that file.

    queued       wanted; its data and its base are being read
    training     with `training_duration_minutes` so far, over all processes that worked on it
    completed    the adapter is at `model_location`
    failed       with `error_message`
    cancelled    by a signal; the same command goes on
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trainer.journal import plain
from trainer.run import RunDirectory, now, write_json
from trainer.standing import read_json

WORDS: Final = {
    "queued": "queued",
    "running": "training",
    "completed": "completed",
    "failed": "failed",
    "interrupted": "cancelled",
}
NAME: Final = re.compile(r"train_(?:[a-z0-9-]+_)?[0-9a-f]{8}")


class Job:
    """Of a run that is gone on with it is the same job, with the minutes that it took before."""

    def __init__(self, run: RunDirectory, organisation: str) -> None:
        before = read_json(run.progress)
        name, minutes = before.get("job_id"), before.get("training_duration_minutes")
        middle = f"{organisation}_" if organisation else ""
        known = isinstance(name, str) and NAME.fullmatch(name)
        self.id = str(name) if known else f"train_{middle}{secrets.token_hex(4)}"
        self.created_at = str(before.get("created_at") or now()) if known else now()
        self.started_at = before.get("started_at") if known else None
        self._before = float(minutes) if known and isinstance(minutes, int | float) else 0.0
        self._begun: float | None = None

    @property
    def minutes(self) -> float:
        return round(self._before + (time.monotonic() - self._begun if self._begun is not None else 0) / 60, 4)

    def told(self, status: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What the progress says: all fields, also those that are not known yet."""
        if status == "running" and self._begun is None:
            self._begun = time.monotonic()
            self.started_at = self.started_at or facts.get("started_at")
        return {
            "job_id": self.id,
            **plain(status, facts),
            "status": WORDS[status],
            "created_at": self.created_at,
            "started_at": self.started_at,
            "completed_at": facts.get("completed_at"),
            "model_location": facts.get("final_model_path"),
            "training_duration_minutes": self.minutes,
            "training_examples_count": facts.get("train_examples"),
            "error_message": facts.get("error"),
        }


def moved(run: RunDirectory, location: Path) -> None:
    """The job's model is somewhere else now: it was published."""
    told = json.loads(run.progress.read_text(encoding="utf-8"))
    write_json(run.progress, {**told, "model_location": str(location), "updated_at": now()})
