"""`model_metadata.json`: what is said of a model, from whoever made it to whoever asks the gateway about it.

Each verb that makes a model writes what it knows beside the weights; publishing puts it together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trainer.contents import model_files, read_json
from trainer.errors import NotAModel
from trainer.run import write_json

FILE: Final = "model_metadata.json"


def read(directory: Path) -> dict[str, Any]:
    """All keys; {} where there is no file. Raises NotAModel when it is not an object of JSON."""
    path = directory / FILE
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise NotAModel(f"{path}: expected an object of JSON")
    return found


def write(directory: Path, fields: Mapping[str, Any]) -> None:
    """Adds `fields` to what is there already; None takes a key away."""
    together = read(directory) | dict(fields)
    write_json(directory / FILE, {key: value for key, value in together.items() if value is not None})


def weights_digest(directory: Path) -> str:
    """What tells one set of weights from another, wherever it lies: of the paths and contents of all weights files."""
    digest = hashlib.sha256()
    for path in model_files(directory):
        if path.suffix in {".safetensors", ".bin"}:
            with (directory / path).open("rb") as stream:
                digest.update(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {path}\n".encode())
    return digest.hexdigest()


def of_run(run: Path) -> dict[str, Any]:
    """What a training run's directory says beyond its final model's own metadata: when it ended, and what it scored."""
    found: dict[str, Any] = {}
    progress, scores = _object(run / "training_progress.json"), _object(run / "scores.json")
    if completed := progress.get("completed_at"):
        found["training_date"] = str(completed)
    if base := progress.get("base_model"):
        found["base_model"] = logical_name(str(base))
    if scores.get("metric"):
        found["scores"] = _summary(scores)
    lineage = _object(run / "lineage.json")
    return found | {key: lineage[key] for key in ("base", "data", "seed", "seeds", "versions") if key in lineage}


def logical_name(base: str) -> str:
    """A base as others know it: of a path on this machine, its last part."""
    return Path(base).name if Path(base).is_absolute() or Path(base).exists() else base


def _summary(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The metric, before and after, with the interval of the difference; not the ranks of every query."""
    short = {key: scores[key] for key in ("metric", "difference") if key in scores}
    for side in ("before", "after"):
        told = scores.get(side)
        if isinstance(told, dict):
            short[side] = {key: value for key, value in told.items() if isinstance(value, int | float)}
            if isinstance(told.get("metrics"), dict):
                short[side] = told["metrics"]
    return short


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
