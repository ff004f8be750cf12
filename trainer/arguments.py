"""The settings of transformers' trainer that every run has, whatever it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.config import Config
from trainer.hardware import Hardware
from trainer.language.config import LanguageConfig
from trainer.plan import RunPlan


def common(
    config: Config | LanguageConfig, plan: RunPlan, hardware: Hardware, folder: Path, *, evaluates: bool
) -> dict[str, Any]:
    """`folder` is where checkpoints go."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": plan.learning_rate,
        "warmup_steps": plan.warmup_steps,
        "weight_decay": config.weight_decay,
        "bf16": hardware.precision == "bfloat16",
        "fp16": hardware.precision == "float16",
        "use_cpu": hardware.device == "cpu",
        "ddp_backend": "gloo" if hardware.device == "cpu" and hardware.processes > 1 else None,
        "seed": config.seed,
        "data_seed": config.seed,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": plan.eval_every,
        "save_strategy": "steps",
        "save_steps": plan.save_every,
        "save_total_limit": max(1, config.keep_checkpoints),
        "logging_steps": plan.log_every,
        "disable_tqdm": True,
        "dataloader_pin_memory": hardware.device == "cuda",
    }


def for_one_device(made: Any, hardware: Hardware) -> Any:
    """The library would spread one process over all devices it sees, which is slower than one."""
    if hardware.processes == 1 and hardware.device == "cuda":
        made._n_gpu = 1
    return made
