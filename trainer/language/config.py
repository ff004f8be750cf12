"""Every setting of `trainer language`. What finetune has as well is the same setting, with the same older names."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from trainer.config import CONVERTED, Amount, Config, Positive, Share
from trainer.settings import Table, setting


def _as_in_finetune(key: str, help: str = "", **changed: Any) -> Any:
    field = copy(Config.model_fields[key])
    field.description = help or field.description
    for name, value in changed.items():
        setattr(field, name, value)
    return field


class LanguageConfig(BaseModel):
    """None means: chosen from the data and the machine, and said."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    # data
    data: tuple[Path, ...] = _as_in_finetune("data", "files of rows: prompts and completions, messages, instructions")
    validation: tuple[Path, ...] = _as_in_finetune("validation")
    split: Share = _as_in_finetune("split")
    dedupe: Literal["none", "exact", "near"] = _as_in_finetune("dedupe")
    max_samples: PositiveInt | None = _as_in_finetune("max_samples", "train on so many rows at most")
    skip_broken: bool = _as_in_finetune("skip_broken")
    too_long: Literal["refuse", "skip", "cut"] = setting(
        "refuse", "rows beyond the limit: an error, left out, or their end left away", group="data"
    )
    org: str = setting("", "whose model this is: one organisation a run", "organization_id", group="data")
    # model
    base_model: str = _as_in_finetune("base_model")
    output: Path | None = _as_in_finetune("output")
    max_seq_length: PositiveInt | None = _as_in_finetune("max_seq_length", "tokens of a row; else what the base takes")
    chat_template: str = setting(
        "auto", "auto: the base's, if it has one; none: rows are plain text; else a file with one", group="model"
    )
    # LoRA
    lora_r: PositiveInt = _as_in_finetune("lora_r")
    lora_alpha: PositiveInt = _as_in_finetune("lora_alpha")
    lora_dropout: Share = _as_in_finetune("lora_dropout")
    lora_targets: tuple[str, ...] = _as_in_finetune("lora_targets", "modules to adapt; else all linear layers")
    qlora: bool = setting(False, "over a base in 4 bits (nf4); on CUDA only", group="lora")
    # training
    epochs: Positive = _as_in_finetune("epochs")
    batch_size: PositiveInt | None = _as_in_finetune("batch_size")
    gradient_accumulation: PositiveInt = _as_in_finetune("gradient_accumulation")
    learning_rate: Positive | None = _as_in_finetune("learning_rate", "the peak; else 2e-4")
    warmup: Amount = _as_in_finetune("warmup")
    weight_decay: Amount = _as_in_finetune("weight_decay")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = _as_in_finetune("precision")
    seed: NonNegativeInt = _as_in_finetune("seed")
    device: str = _as_in_finetune("device")
    threads: PositiveInt | None = _as_in_finetune("threads")
    # evaluation, checkpoints
    eval_batch_size: PositiveInt | None = _as_in_finetune("eval_batch_size", "rows of a batch when evaluating")
    eval_every: PositiveInt | None = _as_in_finetune("eval_every")
    eval_sample_size: PositiveInt | None = _as_in_finetune("eval_sample_size", "evaluate on so many rows at most")
    best_by: Literal["loss", "last"] = setting(
        "loss",
        "which checkpoint becomes the final model: that of the lowest held-out loss, or the last",
        group="evaluation",
    )
    early_stopping: NonNegativeInt = _as_in_finetune("early_stopping")
    save_every: PositiveInt | None = _as_in_finetune("save_every")
    keep_checkpoints: PositiveInt = _as_in_finetune("keep_checkpoints")
    fail_below: Share | None = _as_in_finetune(
        "fail_below", "exit 3 when a smaller share of answers is right word for word"
    )
    # the run
    resume: Literal["auto", "never"] = _as_in_finetune("resume")
    overwrite: bool = _as_in_finetune("overwrite")
    publish: str = _as_in_finetune("publish", "NAMESPACE/NAME to publish the adapter as; else trained/ORG")
    models_dir: Path | None = _as_in_finetune("models_dir")
    log_file: Path = _as_in_finetune("log_file", default=Path("logs/language_finetuning.log"))
    progress_file: Path = _as_in_finetune("progress_file")
    metrics_file: Path = _as_in_finetune("metrics_file")


SETTINGS: Final = Table(LanguageConfig, CONVERTED)
