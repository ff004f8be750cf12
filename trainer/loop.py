"""The loop: sentence-transformers' trainer with what it prints and writes by itself taken away, and ours put in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from trainer.config import Config
from trainer.console import Advance
from trainer.hardware import Hardware
from trainer.journal import Journal
from trainer.losses import Rows, kind
from trainer.plan import Plan
from trainer.scores import Scores

EVALUATION = "eval_"


class Loop(SentenceTransformerTrainer):  # type: ignore[misc]  # the library has no types
    """Without the library's cards, which would hold rows of the data, and without its bars."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for chatty in (PrinterCallback, ProgressCallback):
            self.remove_callback(chatty)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        pass

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)


class HeldOut(SentenceEvaluator):  # type: ignore[misc]  # the library has no types
    """Scores the model as it is now on the held-out questions."""

    def __init__(self, scored: Callable[[], Scores]) -> None:
        super().__init__()
        self.primary_metric = "mrr@10"
        self._scored = scored

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> Any:
        return self._scored().summary()


class Follow(TrainerCallback):  # type: ignore[misc]  # the library has no types
    """Tells the journal and the bar how far it is. Steps per second are those of steps: what evaluating and saving took
    is not in them."""

    def __init__(self, journal: Journal, advance: Advance, after_evaluation: Callable[[], None]) -> None:
        self._journal, self._advance, self._after_evaluation = journal, advance, after_evaluation
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
        elif logs and any(key.startswith(EVALUATION) and "@" in key for key in logs):
            self._judged(place, logs)

    def _learned(self, place: dict[str, Any], logs: Mapping[str, Any]) -> None:
        values = {key: float(logs[key]) for key in ("loss", "learning_rate", "grad_norm") if key in logs}
        if self._spent:
            values["steps_per_second"] = round(self._steps / self._spent, 3)
        self._spent, self._steps = 0.0, 0
        self._journal.measure(**place, **{key: _finite(value) for key, value in values.items()})
        self._journal.note(f"step {place['step']}, epoch {place['epoch']:.2f}: loss {values['loss']:.4f}")
        self._journal.step(loss=_finite(values["loss"]))

    def _judged(self, place: dict[str, Any], logs: Mapping[str, Any]) -> None:
        scores = {key.removeprefix(EVALUATION): float(value) for key, value in logs.items() if "@" in key}
        self._journal.measure(**place, **scores)
        told = ", ".join(f"{metric} {value:.4f}" for metric, value in scores.items() if metric in ("mrr@10", "ndcg@10"))
        self._journal.tell(f"step {place['step']}, epoch {place['epoch']:.2f}: {told}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._after_evaluation()
        self._mark = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mark = time.perf_counter()


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def arguments(config: Config, plan: Plan, hardware: Hardware, folder: Path, *, evaluates: bool, prompts: Any) -> Any:
    """The library's settings for this run; `folder` is where checkpoints go."""
    if config.tensorboard:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.parent / "logs" / "tensorboard")
    made = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=plan.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=plan.learning_rate,
        warmup_steps=plan.warmup_steps,
        weight_decay=config.weight_decay,
        bf16=hardware.precision == "bfloat16",
        fp16=hardware.precision == "float16",
        use_cpu=hardware.device == "cpu",
        ddp_backend="gloo" if hardware.device == "cpu" and hardware.processes > 1 else None,
        seed=config.seed,
        data_seed=config.seed,
        batch_sampler="no_duplicates" if kind(config.loss).apart else "batch_sampler",
        prompts=prompts or None,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=plan.eval_every,
        save_strategy="steps",
        save_steps=plan.save_every,
        save_total_limit=max(1, config.keep_checkpoints),
        logging_steps=plan.log_every,
        report_to=["tensorboard"] if config.tensorboard else "none",
        disable_tqdm=True,
        dataloader_pin_memory=hardware.device == "cuda",
    )
    if hardware.processes == 1 and hardware.device == "cuda":
        made._n_gpu = 1  # the library would spread one process over all devices it sees, which is slower than one
    return made


def dataset(rows: Rows) -> Any:
    from datasets import Dataset, disable_caching, disable_progress_bars  # noqa: PLC0415  heavy

    disable_progress_bars()
    disable_caching()
    return Dataset.from_dict(rows)


def prompts_of(rows: Rows, query: str, document: str) -> dict[str, str]:
    """By column, as the library wants them."""
    found = {column: query if column == "anchor" else document for column in rows if column != "label"}
    return {column: prompt for column, prompt in found.items() if prompt}
