"""The best weights so far, beside the checkpoints; and stopping when nothing gets better.

Which evaluation was the best is read from the log that every checkpoint carries, and never remembered apart from it:
a resumed run comes to the same answer.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from transformers import TrainerCallback

PREFIX: Final = "best-"
LOWER: Final = frozenset({"loss"})  # metrics of which less is better
Log = Sequence[Mapping[str, Any]]


def evaluations(log: Log, metric: str) -> list[tuple[int, float]]:
    """Steps and scores of the evaluations in a log, in order; the last one of a step counts, and what is no number
    counts for nothing."""
    key = f"eval_{metric}"
    found = {int(entry["step"]): float(entry[key]) for entry in log if key in entry}
    return sorted((step, score) for step, score in found.items() if math.isfinite(score))


def best(log: Log, metric: str) -> tuple[int, float] | None:
    """The first evaluation with the highest score, or the lowest loss."""
    sign = -1 if metric in LOWER else 1
    return max(evaluations(log, metric), key=lambda found: (sign * found[1], -found[0]), default=None)


def is_stalled(log: Log, metric: str, patience: int) -> bool:
    """Whether so many evaluations in a row brought no gain."""
    found = best(log, metric)
    if not patience or not found:
        return False
    return sum(at > found[0] for at, _ in evaluations(log, metric)) >= patience


def directory(folder: Path, step: int) -> Path:
    return folder / f"{PREFIX}{step}"


class KeepBest(TrainerCallback):  # type: ignore[misc]  # the library has no types
    """Saves the weights whenever an evaluation is the best so far, and ends a run that has stalled."""

    def __init__(self, folder: Path, metric: str, patience: int, save: Callable[[str], None]) -> None:
        self._folder, self._metric, self._patience, self._save = folder, metric, patience, save

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        found = best(state.log_history, self._metric)
        if found and found[0] == state.global_step and state.is_world_process_zero:
            self._keep(directory(self._folder, found[0]))
        if is_stalled(state.log_history, self._metric, self._patience):
            control.should_training_stop = control.should_save = True

    def _keep(self, target: Path) -> None:
        draft = self._folder / ".best"
        shutil.rmtree(draft, ignore_errors=True)
        self._save(str(draft))
        shutil.rmtree(target, ignore_errors=True)  # of a run that was killed after this evaluation
        draft.rename(target)
        for other in self._folder.glob(f"{PREFIX}*"):
            if other != target:
                shutil.rmtree(other, ignore_errors=True)
