"""Every setting of `trainer finetune`, one record: its flags, its environment, its file and its page in the docs are
made from this table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from trainer.settings import Table, is_true
from trainer.settings import setting as _key

Loss = Literal[
    "MultipleNegativesRankingLoss",
    "CachedMultipleNegativesRankingLoss",
    "TripletLoss",
    "CosineSimilarityLoss",
    "ContrastiveLoss",
    "OnlineContrastiveLoss",
]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[float, Field(ge=0)]


class Config(BaseModel):
    """What `trainer finetune` is told. None means: chosen from the data and the machine, and said."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    # data
    data: tuple[Path, ...] = _key((), "files of examples", "input_jsonl", "input", group="data")
    validation: tuple[Path, ...] = _key((), "files to evaluate on, in place of a split", group="data")
    split: Share = _key(0.1, "the share of groups held out", "val_split", group="data")
    dedupe: Literal["none", "exact", "near"] = _key("exact", "which repeated rows are left out", group="data")
    max_samples: PositiveInt | None = _key(None, "train on so many examples at most", group="data")
    skip_broken: bool = _key(False, "leave broken rows out and say so, in place of stopping", group="data")
    # model
    base_model: str = _key(
        "", "the model to start from: a directory, or a name of the hub", "base", "model", group="model"
    )
    output: Path | None = _key(None, "the run's directory", "output_dir", group="model")
    max_seq_length: PositiveInt | None = _key(None, "tokens of a text in training; else from the data", group="model")
    serve_seq_length: PositiveInt | None = _key(None, "tokens of a text when served; else the base's", group="model")
    query_prompt: str = _key("", "put before every query", group="model")
    document_prompt: str = _key("", "put before every document", group="model")
    # LoRA
    lora: bool = _key(False, "train an adapter in place of all weights", "use_lora", group="lora")
    lora_r: PositiveInt = _key(16, "the adapter's rank", group="lora")
    lora_alpha: PositiveInt = _key(32, "the adapter's scale is alpha / r", group="lora")
    lora_dropout: Share = _key(0.05, "dropout before the adapter", group="lora")
    lora_targets: tuple[str, ...] = _key((), "modules to adapt; else all linear layers of the encoder", group="lora")
    # training
    loss: Loss = _key("MultipleNegativesRankingLoss", "what is minimised", "loss_function", group="training")
    matryoshka: tuple[PositiveInt, ...] = _key((), "also train these shorter dimensions", group="training")
    mine_negatives: NonNegativeInt = _key(0, "hard negatives to mine for each query before training", group="training")
    epochs: Positive = _key(3, "how often each example is seen", "num_epochs", group="training")
    batch_size: PositiveInt | None = _key(None, "examples of a step", "train_batch_size", group="training")
    mini_batch_size: PositiveInt | None = _key(None, "texts in memory at once, for the cached loss", group="training")
    gradient_accumulation: PositiveInt = _key(1, "steps added up before the weights change", group="training")
    learning_rate: Positive | None = _key(None, "the peak; else 5e-5, and 5e-4 with LoRA", "lr", group="training")
    warmup: Amount = _key(
        0.1, "steps of warm-up, or a share of all when below 1", "warmup_steps", "warmup_ratio", group="training"
    )
    weight_decay: Amount = _key(0.0, "decay of the weights", group="training")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = _key(
        "auto", "mixed precision; auto: where the device has it", group="training"
    )
    seed: NonNegativeInt = _key(42, "of everything that is random", group="training")
    device: str = _key("auto", "auto, cpu, cuda, cuda:N", group="training")
    threads: PositiveInt | None = _key(None, "threads that compute on a CPU; else its cores", group="training")
    # evaluation, checkpoints
    eval_batch_size: PositiveInt | None = _key(None, "texts of a batch when evaluating", group="evaluation")
    eval_every: PositiveInt | None = _key(
        None, "steps between evaluations; else about ten in a run", "evaluation_steps", group="evaluation"
    )
    eval_sample_size: PositiveInt | None = _key(None, "evaluate on so many queries at most", group="evaluation")
    best_by: Literal["mrr@10", "ndcg@10", "last"] = _key(
        "mrr@10", "which checkpoint becomes the final model", group="evaluation"
    )
    early_stopping: NonNegativeInt = _key(
        0, "stop after so many evaluations without a gain; 0 never", group="evaluation"
    )
    save_every: PositiveInt | None = _key(
        None, "steps between checkpoints; else as evaluations", "save_steps", group="evaluation"
    )
    keep_checkpoints: PositiveInt = _key(3, "how many are kept beside the best", group="evaluation")
    fail_below: Share | None = _key(None, "exit 3 when the final score is lower", group="evaluation")
    # the run
    resume: Literal["auto", "never"] = _key("auto", "go on from the newest whole checkpoint, or refuse", group="run")
    overwrite: bool = _key(False, "begin anew in a run's directory that has one", group="run")
    tensorboard: bool = _key(False, "write events for TensorBoard too", group="run")
    publish: str = _key("", "NAMESPACE/NAME to publish the final model as", group="run")
    models_dir: Path | None = _key(None, "the volume that the gateway watches", group="run")
    log_file: Path = _key(Path("logs/embedding_finetuning.log"), "below the run's directory", group="run")
    progress_file: Path = _key(Path("training_progress.json"), "below the run's directory", group="run")
    metrics_file: Path = _key(Path("training_metrics.jsonl"), "below the run's directory", group="run")


# Older names that say the same in another way: the key, and what their value means for it.
CONVERTED: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "train_split": ("split", lambda value: round(1 - float(value), 10)),
    "no_fp16": ("precision", lambda value: "float32" if is_true(value) else "auto"),
}

SETTINGS: Final = Table(Config, CONVERTED)
GROUPS: Final = SETTINGS.groups
NAMES: Final = SETTINGS.names
group, older = SETTINGS.group, SETTINGS.older
resolve, resolve_options, add_flags = SETTINGS.resolve, SETTINGS.resolve_options, SETTINGS.add_flags
