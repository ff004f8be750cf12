"""What a model says of itself: README.md for people, model_metadata.json for the gateway. No row of its data is in
either: they go wherever the model goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import Config
from trainer.run import now, write_json


def write(folder: Path, config: Config, known: Mapping[str, Any], *, adapter: bool) -> None:
    """`known` is the run's lineage, with its `scores`."""
    base = known["base"]
    fields = {
        "base_model": base["name"],
        "base_digest": base["digest"],
        "base": base,
        "training_date": now(),
        "description": _description(config, known, adapter),
        "scores": known.get("scores", {}),
        "data": [{"sha256": file["sha256"], "bytes": file["bytes"]} for file in known.get("data", [])],
        "seed": known.get("seed"),
        "versions": known.get("versions", {}),
    }
    write_json(folder / "model_metadata.json", fields)
    (folder / "README.md").write_text(_readme(config, known, adapter), encoding="utf-8")


def _description(config: Config, known: Mapping[str, Any], adapter: bool) -> str:
    how = f"LoRA of rank {config.lora_r}{'' if adapter else ', merged'}" if config.lora else "all weights"
    return f"{known['base']['name']} fine-tuned on {known['examples']['train']} examples ({how})"


def _readme(config: Config, known: Mapping[str, Any], adapter: bool) -> str:
    scores, base = known.get("scores", {}), known["base"]
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        f"base_model: {base['name']}",
        "---",
        "",
        f"# {_description(config, known, adapter)}",
        "",
        "| | |",
        "|---|---|",
        f"| base | {base['name']} |",
        f"| weights of the base | sha256 {base['digest']} |",
        f"| examples | {known['examples']['train']} to train on, {known['examples']['held_out']} held out |",
        f"| loss | {config.loss} |",
        f"| epochs | {config.epochs:g} |",
        f"| seed | {config.seed} |",
        *(f"| {name} | {version} |" for name, version in known.get("versions", {}).items()),
    ]
    if scores:
        lines += ["", "On held-out queries:", "", f"| | {scores['metric']} |", "|---|---|"]
        lines += [f"| base | {scores['before']:.4f} |", f"| this model | {scores['after']:.4f} |"]
    if adapter:
        lines += ["", "An adapter: it needs its base, of just these weights. `trainer merge` makes a model of both."]
    return "\n".join(lines) + "\n"
