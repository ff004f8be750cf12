"""The loop: transformers' own trainer over rows of tokens, with our evaluation in place of its."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from trainer.arguments import common, for_one_device
from trainer.following import hushed
from trainer.hardware import Hardware
from trainer.language.config import LanguageConfig
from trainer.language.encoding import Sample
from trainer.language.measure import Measured, padded
from trainer.plan import RunPlan


class Loop(Trainer):  # type: ignore[misc]  # the library has no types
    """`scored` measures the model as it is now on what is held out. Checkpoints hold the adapter alone."""

    def __init__(self, scored: Callable[[], Measured] | None, pad: int, **options: Any) -> None:
        super().__init__(data_collator=lambda samples: padded(samples, pad), **options)
        self._scored = scored
        self.control: Any = self.control
        hushed(self)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        if self._scored is None:
            return {}
        found = self._scored()
        told = {"loss": found.loss, "perplexity": found.perplexity, "exact_match": found.exact_match}
        metrics = {f"eval_{key}": value for key, value in told.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_adapter(self.accelerator.unwrap_model(self.model), output_dir or self.args.output_dir)


def save_adapter(model: Any, directory: str | Path) -> None:
    """Nothing but the adapter: word vectors are never trained, and asking whether they were would ask a hub."""
    model.save_pretrained(str(directory), save_embedding_layers=False)


def judged(logs: Mapping[str, Any]) -> dict[str, float]:
    """The scores of an evaluation; {} where the log is of something else."""
    if "eval_perplexity" not in logs:
        return {}
    names = {"held_out_loss": "eval_loss", "perplexity": "eval_perplexity", "exact_match": "eval_exact_match"}
    return {name: float(logs[key]) for name, key in names.items()}


def assembled(
    model: Any,
    samples: Sequence[Sample],
    *,
    config: LanguageConfig,
    plan: RunPlan,
    hardware: Hardware,
    folder: Path,
    pad: int,
    scored: Callable[[], Measured] | None,
    callbacks: list[Any],
) -> Loop:
    """`folder` is where checkpoints go."""
    made = TrainingArguments(
        **common(config, plan, hardware, folder, evaluates=scored is not None),
        report_to="none",
        label_names=["labels"],
        remove_unused_columns=False,
    )
    return Loop(
        scored,
        pad,
        model=model,
        args=for_one_device(made, hardware),
        train_dataset=list(samples),
        eval_dataset=[] if scored else None,
        callbacks=callbacks,
    )
