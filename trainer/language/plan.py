"""The numbers of a run that its settings leave open, chosen from the data and the machine, and said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trainer.errors import InvalidInput
from trainer.hardware import Hardware
from trainer.language.config import LanguageConfig
from trainer.plan import EVALUATIONS, LOGS, count_steps, warmup_steps

BATCH: Final = {"cpu": 4, "cuda": 8}
EVAL_BATCH: Final = {"cpu": 4, "cuda": 8}
RATE: Final = 2e-4
CHOSEN: Final = ("batch_size", "max_seq_length", "learning_rate", "warmup_steps", "eval_every")


@dataclass(frozen=True, slots=True)
class LanguagePlan:
    """`steps` are changes of the weights; `notes` say what was chosen."""

    rows: int
    batch_size: int
    eval_batch_size: int
    max_seq_length: int
    learning_rate: float
    steps: int
    warmup_steps: int
    eval_every: int
    save_every: int
    log_every: int
    notes: tuple[str, ...] = ()


def limit(config: LanguageConfig, base: int) -> int:
    """Tokens of a row, of which the base takes so many. Raises InvalidInput."""
    if config.max_seq_length is not None and config.max_seq_length > base:
        raise InvalidInput(f"max_seq_length {config.max_seq_length}: the base takes {base} tokens")
    return config.max_seq_length or base


def make(config: LanguageConfig, hardware: Hardware, rows: int, length: int) -> LanguagePlan:
    """Raises InvalidInput where there would be no step."""
    notes: list[str] = []
    batch = config.batch_size or max(1, min(BATCH[hardware.device], rows // hardware.processes))
    steps = count_steps(config, hardware, rows, batch)
    warmup = warmup_steps(config.warmup, steps, notes)
    every = min(config.eval_every or max(1, steps // EVALUATIONS), steps)
    rate = config.learning_rate or RATE
    return LanguagePlan(
        rows=rows,
        batch_size=batch,
        eval_batch_size=config.eval_batch_size or EVAL_BATCH[hardware.device],
        max_seq_length=length,
        learning_rate=rate,
        steps=steps,
        warmup_steps=warmup,
        eval_every=every,
        save_every=min(config.save_every or every, steps),
        log_every=max(1, steps // LOGS),
        notes=(*_chosen(config, hardware, batch, rate), *notes),
    )


def _chosen(config: LanguageConfig, hardware: Hardware, batch: int, rate: float) -> list[str]:
    named = {
        f"batch {batch}": config.batch_size,
        f"learning rate {rate:g}": config.learning_rate,
        f"{hardware.threads} threads": config.threads,
        hardware.precision: None if config.precision == "auto" else config.precision,
        hardware.device: None if config.device == "auto" else config.device,
    }
    found = [what for what, given in named.items() if given is None]
    return [f"chosen: {', '.join(found)}"] if found else []
