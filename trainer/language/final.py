"""The end of a run: the adapter's directory, and what it says of itself. No row of the data is in it: it goes wherever
the model goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trainer import best, checkpoints, lora, metadata
from trainer.language import golden, info
from trainer.language.config import LanguageConfig
from trainer.language.golden import Spoken
from trainer.language.loop import save_adapter
from trainer.language.speaker import Speaker
from trainer.output import staged
from trainer.run import RunDirectory, now

ADAPTER: Final = "adapter_config.json"


def take_best(config: LanguageConfig, run: RunDirectory, model: Any, log: best.Log) -> str:
    """The adapter of the lowest loss, where that of the last step is not it. -> what was done, or ""."""
    found = best.best(log, config.best_by) if config.best_by != "last" else None
    if found is None or found[0] == log[-1].get("step"):
        return ""
    step, loss = found
    directory = best.directory(run.checkpoints, step)
    if not directory.is_dir() or checkpoints.weights_fault(directory):
        return f"the best weights, of step {step}, are not there any more: the last ones are taken"
    lora.load_weights(model, directory)
    return f"the best weights are those of step {step}: a loss of {loss:.4f}"


def save(run: RunDirectory, speaker: Speaker, spoken: Spoken, told: Mapping[str, Any]) -> None:
    """final_model/: an adapter as peft reads it, named after its base as others know it. `told` is what is known of the
    run, in the form of training_info.json."""
    with staged(run.final_model, overwrite=True) as stage:  # what is there was left by a run that was killed after it
        save_adapter(speaker.model, stage)
        _name_base(stage / ADAPTER, str(told["base"]["name"]))
        if speaker.own_words:
            speaker.tokenizer.save_pretrained(str(stage))
        (stage / "README.md").unlink(missing_ok=True)  # peft's own is a form to be filled in
        _describe(stage, spoken, told)
        info.write(stage, told)


def _name_base(config: Path, name: str) -> None:
    """A path of this machine says nothing elsewhere; layers in order, so that equal runs write equal files."""
    found = json.loads(config.read_text(encoding="utf-8"))
    found["base_model_name_or_path"] = name
    if isinstance(found.get("target_modules"), list):
        found["target_modules"] = sorted(found["target_modules"])
    config.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _describe(stage: Path, spoken: Spoken, told: Mapping[str, Any]) -> None:
    base = told["base"]
    fields = {
        "base_model": base["name"],
        "base_digest": base["digest"],
        "base": base,
        "organization": told["organization"] or None,
        "training_date": now(),
        "description": info.description(told),
        "data": told["data"]["files"],
        "seed": told["settings"]["seed"],
        "versions": told["versions"],
        golden.KEY: spoken.to_json(),
    }
    metadata.write(stage, fields)
