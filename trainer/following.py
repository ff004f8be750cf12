"""What goes on while a run trains, told to its journal, its bar and its page; the library's own talk is taken away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from trainer.console import Advance
from trainer.journal import Journal
from trainer.run import RunDirectory

EVALUATION: Final = "eval_"
TOLD: Final = (
    "mrr@10",
    "ndcg@10",
    "held_out_loss",
    "perplexity",
    "exact_match",
)  # of an evaluation, to whoever watches
Judged = Callable[[Mapping[str, Any]], dict[str, float]]  # what an evaluation has logged -> its scores; {} for none


def hushed(loop: Any) -> None:
    """Takes the library's bars and prints from one of its trainers."""
    for chatty in (PrinterCallback, ProgressCallback):
        loop.remove_callback(chatty)


def ranked(logs: Mapping[str, Any]) -> dict[str, float]:
    """Scores of ranks, such as mrr@10."""
    scores = {key.removeprefix(EVALUATION): value for key, value in logs.items() if key.startswith(EVALUATION)}
    return {key: float(value) for key, value in scores.items() if "@" in key}


def redraw(run: RunDirectory, journal: Journal) -> None:
    """The run's page. One that cannot be drawn ends no run."""
    if not journal.writes:
        return
    try:
        from trainer.report import write_report  # noqa: PLC0415  drawn as often as there is something new

        write_report(run)
    except Exception as error:
        journal.note(f"no report: {type(error).__name__}: {error}", logging.WARNING)


class Follow(TrainerCallback):  # type: ignore[misc]  # the library has no types
    """Tells the journal and the bar how far it is. Steps per second are those of steps: what evaluating and saving took
    is not in them."""

    def __init__(
        self, journal: Journal, advance: Advance, after_evaluation: Callable[[], None], judged: Judged = ranked
    ) -> None:
        self._journal, self._advance, self._after_evaluation = journal, advance, after_evaluation
        self._scores = judged
        self._mark = self._spent = 0.0
        self._steps = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mark = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        moment = time.perf_counter()
        self._spent += moment - self._mark
        self._mark = moment
        self._steps += 1
        self._advance(state.global_step, state.max_steps)
        self._journal.step(step=state.global_step, steps=state.max_steps, epoch=round(state.epoch or 0.0, 4))

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        place = {"epoch": round(state.epoch or 0.0, 4), "step": state.global_step}
        if logs and "loss" in logs:
            self._learned(place, logs)
        elif logs and (scores := self._scores(logs)):
            self._judged(place, scores)

    def _learned(self, place: dict[str, Any], logs: Mapping[str, Any]) -> None:
        values = {key: float(logs[key]) for key in ("loss", "learning_rate", "grad_norm") if key in logs}
        if self._spent:
            values["steps_per_second"] = round(self._steps / self._spent, 3)
        self._spent, self._steps = 0.0, 0
        self._journal.measure(**place, **{key: _finite(value) for key, value in values.items()})
        self._journal.note(f"step {place['step']}, epoch {place['epoch']:.2f}: loss {values['loss']:.4f}")
        self._journal.step(loss=_finite(values["loss"]))

    def _judged(self, place: dict[str, Any], scores: Mapping[str, float]) -> None:
        self._journal.measure(**place, **{key: _finite(value) for key, value in scores.items()})
        told = ", ".join(f"{metric} {value:.4f}" for metric, value in scores.items() if metric in TOLD)
        self._journal.tell(f"step {place['step']}, epoch {place['epoch']:.2f}: {told}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._after_evaluation()
        self._mark = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mark = time.perf_counter()


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
