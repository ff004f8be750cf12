"""The end of a run: the best weights become plain model directories, whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import best, card, checkpoints, lora, metadata, modelling, reload
from trainer.config import Config
from trainer.golden import TEXTS, Golden
from trainer.merge import merge
from trainer.output import staged
from trainer.run import RunDirectory


def take_best(config: Config, run: RunDirectory, model: Any, log: best.Log) -> str:
    """The weights of the best evaluation, where those of the last step are not the best. -> what was done, or ""."""
    found = best.best(log, config.best_by) if config.best_by != "last" else None
    if found is None or found[0] == log[-1].get("step"):
        return ""
    step, score = found
    directory = best.directory(run.checkpoints, step)
    if not directory.is_dir() or checkpoints.weights_fault(directory):
        return f"the best weights, of step {step}, are not there any more: the last ones are taken"
    if config.lora:
        lora.load_weights(model.transformers_model, directory)
    else:
        model.load_state_dict(modelling.load(directory, str(model.device)).state_dict())
    return f"the best weights are those of step {step}: {config.best_by} {score:.4f}"


def save(config: Config, run: RunDirectory, model: Any, base: Path, known: Mapping[str, Any]) -> None:
    """adapter/ of a LoRA run, and final_model/, which needs no base any more. `known` is for the card."""
    for kind, prompt in (("query", config.query_prompt), ("document", config.document_prompt)):
        if prompt:
            model.prompts[kind] = prompt
    place = run.adapter if config.lora else run.final_model
    with staged(place, overwrite=True) as stage:  # what is there was left by a run that was killed just after it
        model.save_pretrained(str(stage), create_model_card=False)
        _describe(config, stage, model, known, adapter=config.lora)
    if config.lora:
        with staged(run.final_model, overwrite=True) as stage:
            stage.rmdir()  # merging makes its own, when it is proven
            merge(run.adapter, base, stage)
            _describe(config, stage, model, known, adapter=False)


def _describe(config: Config, stage: Path, model: Any, known: Mapping[str, Any], *, adapter: bool) -> None:
    """What it is, and how it answers, by which whoever serves it can tell."""
    card.write(stage, config, known, adapter=adapter)
    metadata.write(stage, {"golden": Golden(TEXTS, reload.encode(model, TEXTS)).to_json()})
