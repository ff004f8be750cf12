"""The loop: sentence-transformers' trainer with what it prints and writes by itself taken away, and ours put in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

from trainer.arguments import common, for_one_device
from trainer.config import Config
from trainer.following import hushed
from trainer.hardware import Hardware
from trainer.losses import Rows, kind
from trainer.plan import Plan
from trainer.scores import Scores


class Loop(SentenceTransformerTrainer):  # type: ignore[misc]  # the library has no types
    """Without the library's cards, which would hold rows of the data, and without its bars."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        hushed(self)

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


def arguments(config: Config, plan: Plan, hardware: Hardware, folder: Path, *, evaluates: bool, prompts: Any) -> Any:
    """The library's settings for this run; `folder` is where checkpoints go."""
    if config.tensorboard:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder.parent / "logs" / "tensorboard")
    made = SentenceTransformerTrainingArguments(
        **common(config, plan, hardware, folder, evaluates=evaluates),
        batch_sampler="no_duplicates" if kind(config.loss).apart else "batch_sampler",
        prompts=prompts or None,
        report_to=["tensorboard"] if config.tensorboard else "none",
    )
    return for_one_device(made, hardware)


def dataset(rows: Rows) -> Any:
    from datasets import Dataset, disable_caching, disable_progress_bars  # noqa: PLC0415  heavy

    disable_progress_bars()
    disable_caching()
    return Dataset.from_dict(rows)


def prompts_of(rows: Rows, query: str, document: str) -> dict[str, str]:
    """By column, as the library wants them."""
    found = {column: query if column == "anchor" else document for column in rows if column != "label"}
    return {column: prompt for column, prompt in found.items() if prompt}
