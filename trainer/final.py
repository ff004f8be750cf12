"""The end of a run: the best weights become plain model directories, whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer import best, card, checkpoints, lora, metadata, modelling, reload
from trainer.config import Config
from trainer.golden import TEXTS, Golden
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
        lora.load_weights(model, directory)
    else:
        model.load_state_dict(modelling.load(directory, str(model.device)).state_dict())
    return f"the best weights are those of step {step}: {config.best_by} {score:.4f}"


def save(config: Config, run: RunDirectory, model: Any, known: Mapping[str, Any]) -> None:
    """adapter/ of a LoRA run, and final_model/, which needs no base any more. `known` is for the card."""
    for kind, prompt in (("query", config.query_prompt), ("document", config.document_prompt)):
        if prompt:
            model.prompts[kind] = prompt
    if config.lora:
        _put(config, model, run.adapter, known)
        lora.merge(model)
    _put(config, model, run.final_model, known)


def _put(config: Config, model: Any, target: Path, known: Mapping[str, Any]) -> None:
    draft = target.with_name(f".{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(str(draft), create_model_card=False)
    card.write(draft, config, known, adapter=(draft / "adapter_config.json").exists())
    metadata.write(draft, {"golden": Golden(TEXTS, reload.encode(model, TEXTS)).to_json()})
    readable(draft)
    shutil.rmtree(target, ignore_errors=True)  # of a run that was killed just after it had saved
    draft.rename(target)


def readable(folder: Path) -> None:
    """Files as the umask wants them: safetensors are written for their owner alone, and a gateway may be another."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
