"""The numbers of a run that its settings leave open, chosen from the data and the machine, and said."""

from __future__ import annotations

from typing import Final

from trainer.errors import InvalidInput
from trainer.hardware import Hardware
from trainer.language.config import LanguageConfig
from trainer.plan import RunPlan, in_common

BATCH: Final = {"cpu": 4, "cuda": 8}
EVAL_BATCH: Final = {"cpu": 4, "cuda": 8}
RATE: Final = 2e-4
CHOSEN: Final = ("batch_size", "max_seq_length", "learning_rate", "warmup_steps", "eval_every")


def limit(config: LanguageConfig, base: int) -> int:
    """Tokens of a row, of which the base takes so many. Raises InvalidInput."""
    if config.max_seq_length is not None and config.max_seq_length > base:
        raise InvalidInput(f"max_seq_length {config.max_seq_length}: the base takes {base} tokens")
    return config.max_seq_length or base


def make(config: LanguageConfig, hardware: Hardware, rows: int, length: int) -> RunPlan:
    """Raises InvalidInput where there would be no step."""
    return in_common(
        config,
        hardware,
        rows,
        batch=config.batch_size or max(1, min(BATCH[hardware.device], rows // hardware.processes)),
        eval_batch=config.eval_batch_size or EVAL_BATCH[hardware.device],
        length=length,
        rate=config.learning_rate or RATE,
    )
