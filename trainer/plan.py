"""The numbers of a run that its settings leave open, chosen from the data and the machine, and said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from trainer.config import Config
from trainer.errors import InvalidInput
from trainer.hardware import Hardware
from trainer.language.config import LanguageConfig
from trainer.losses import kind

BATCH: Final = {"cpu": 16, "cuda": 64}
MINI_BATCH: Final = {"cpu": 16, "cuda": 32}
EVAL_BATCH: Final = {"cpu": 32, "cuda": 128}
RATE: Final = {False: 5e-5, True: 5e-4}  # all weights, LoRA: as good a model at ten times the rate, measured
PERCENTILE: Final = 0.95
SHORTEST: Final = 16
EVALUATIONS: Final = 10
LOGS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Of any run. `steps` are changes of the weights; `notes` say what was chosen and why."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(RunPlan):
    """Of an encoder's."""

    mini_batch_size: int
    serve_seq_length: int


def make(config: Config, hardware: Hardware, rows: int, lengths: Sequence[int], limit: int) -> Plan:
    """`lengths` are tokens of texts of the data, `limit` what the base takes. Raises InvalidInput."""
    batch = config.batch_size or _batch(hardware, rows)
    length = config.max_seq_length or _length(lengths, limit)
    serve = config.serve_seq_length or limit
    for name, value in (("max_seq_length", length), ("serve_seq_length", serve)):
        if value > limit:
            raise InvalidInput(f"{name} {value}: the base takes {limit} tokens")
    common = in_common(
        config,
        hardware,
        rows,
        batch=batch,
        eval_batch=config.eval_batch_size or EVAL_BATCH[hardware.device],
        length=length,
        rate=config.learning_rate or RATE[config.lora],
        named={f"{length} tokens of a text": config.max_seq_length},
        warnings=_warnings(config, batch, rows),
    )
    mini = config.mini_batch_size or MINI_BATCH[hardware.device]
    return Plan(**asdict(common), mini_batch_size=mini, serve_seq_length=serve)


def in_common(
    config: Config | LanguageConfig,
    hardware: Hardware,
    rows: int,
    *,
    batch: int,
    eval_batch: int,
    length: int,
    rate: float,
    named: Mapping[str, object] | None = None,
    warnings: Sequence[str] = (),
) -> RunPlan:
    """What every run has; `named` is what else may have been chosen, None where it was. Raises InvalidInput where there
    would be no step."""
    notes: list[str] = []
    steps = _steps(config, hardware, rows, batch)
    warmup = _warmup(config.warmup, steps, notes)
    every = min(config.eval_every or max(1, steps // EVALUATIONS), steps)
    return RunPlan(
        rows=rows,
        batch_size=batch,
        eval_batch_size=eval_batch,
        max_seq_length=length,
        learning_rate=rate,
        steps=steps,
        warmup_steps=warmup,
        eval_every=every,
        save_every=min(config.save_every or every, steps),
        log_every=max(1, steps // LOGS),
        notes=(*_chosen(config, hardware, batch, rate, named or {}), *notes, *warnings),
    )


def _batch(hardware: Hardware, rows: int) -> int:
    """A quarter of the data at most, so that an epoch is several steps."""
    return max(2, min(BATCH[hardware.device], rows // (4 * hardware.processes)))


def _length(lengths: Sequence[int], limit: int) -> int:
    """What holds 95 of 100 texts whole, in steps of eight."""
    if not lengths:
        return limit
    ordered = sorted(lengths)
    enough = ordered[min(len(ordered) - 1, math.ceil(PERCENTILE * len(ordered)) - 1)]
    return min(limit, max(SHORTEST, math.ceil(enough / 8) * 8))


def _steps(config: Config | LanguageConfig, hardware: Hardware, rows: int, batch: int) -> int:
    batches = math.ceil(rows / (batch * hardware.processes))
    steps = math.ceil(math.ceil(batches / config.gradient_accumulation) * config.epochs)
    if steps < 1:
        raise InvalidInput(f"epochs {config.epochs}: not one step")
    return steps


def _warmup(asked: float, steps: int, notes: list[str]) -> int:
    if asked < 1:
        return math.ceil(asked * steps)
    if asked > steps // 2:
        notes.append(f"a warm-up of {asked:g} steps would outlast the {steps} of this run: {steps // 2} are taken")
    return min(int(asked), steps // 2)


def _chosen(
    config: Config | LanguageConfig, hardware: Hardware, batch: int, rate: float, named: Mapping[str, object]
) -> list[str]:
    everything = {
        f"batch {batch}": config.batch_size,
        **named,
        f"learning rate {rate:g}": config.learning_rate,
        f"{hardware.threads} threads": config.threads,
        hardware.precision: None if config.precision == "auto" else config.precision,
        hardware.device: None if config.device == "auto" else config.device,
    }
    found = [what for what, given in everything.items() if given is None]
    return [f"chosen: {', '.join(found)}"] if found else []


def _warnings(config: Config, batch: int, rows: int) -> list[str]:
    told = []
    if kind(config.loss).apart:
        if batch < min(16, rows):
            told.append(f"a batch of {batch} has few negatives for {config.loss}: 16 and more learn better")
        if config.gradient_accumulation > 1:
            told.append(
                "gradient accumulation does not enlarge the negatives of a batch; "
                "CachedMultipleNegativesRankingLoss with a larger batch does"
            )
    return told
