"""What a run's directory holds already, and whether it may be gone on with.

A run goes on only as what it was begun as: the same base, data, settings, threads. Its identity is all of that, and is
written down before the first step.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trainer import checkpoints, lineage
from trainer.config import Config
from trainer.errors import InvalidInput, TrainerError
from trainer.hardware import Hardware, in_turn
from trainer.journal import Journal
from trainer.language.config import LanguageConfig
from trainer.metadata import weights_digest
from trainer.modelling import logical_name
from trainer.run import RunDirectory, write_json

Settings = Config | LanguageConfig

# settings that the final weights do not depend on, or that stand in the identity by what they mean
FREE: Final = frozenset(
    {
        *("data", "validation", "output", "base_model", "device", "threads", "precision", "eval_batch_size"),
        *("save_every", "fail_below", "keep_checkpoints", "serve_seq_length", "resume", "overwrite", "tensorboard"),
        *("publish", "models_dir", "log_file", "progress_file", "metrics_file"),
    }
)


def of(config: Settings) -> RunDirectory:
    if config.output is None:
        raise InvalidInput("no directory for the run; name one: --output runs/first")
    return RunDirectory(config.output, config.progress_file, config.metrics_file, config.log_file)


def threads_before(config: Settings) -> int | None:
    """The same sum over other threads has other last digits: a run goes on with as many as it was begun with."""
    if config.output is None or config.overwrite:
        return None
    found = read_json(config.output / "lineage.json").get("identity", {}).get("threads")
    return found if isinstance(found, int) else None


def make_room(run: RunDirectory, config: Settings) -> None:
    """A directory that has a run is taken up, begun anew or refused, as the settings say."""
    has_run = any(path.exists() for path in (run.lineage, run.checkpoints, run.final_model, run.progress))
    if config.overwrite:
        _remove(run)
    elif has_run and config.resume == "never":
        raise InvalidInput(f"{run.path}: has a run already; --overwrite begins anew, --resume auto goes on")
    elif has_run and read_json(run.progress).get("status") == "completed":
        there = f"; `trainer publish {run.path} {config.publish}` publishes it" if config.publish else ""
        raise InvalidInput(f"{run.path}: this run is complete{there}; --overwrite begins anew")
    elif not has_run and run.path.is_dir() and any(run.path.iterdir()):
        raise InvalidInput(f"{run.path}: not empty, and no run of ours; choose another --output")
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainerError(f"{run.path}: {error.strerror or error}") from error


def _remove(run: RunDirectory) -> None:
    """What a run writes, and nothing else that someone keeps there."""
    for folder in (run.checkpoints, run.adapter, run.final_model, run.path / "logs" / "tensorboard"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (run.config, run.lineage, run.progress, run.metrics, run.log, run.scores, run.report):
        file.unlink(missing_ok=True)


def record(
    run: RunDirectory,
    config: Settings,
    hardware: Hardware,
    *,
    base: Path,
    chosen: Mapping[str, Any],
    sizes: tuple[int, int],
    more: Mapping[str, Any] | None = None,
) -> str:
    """Writes where this run comes from, and `more`; where that is written already, it must be the same run, or
    InvalidInput is raised. -> what the user should know, or ""."""
    data, validation = lineage.data_files(config.data), lineage.data_files(config.validation)
    digest, versions = weights_digest(base), lineage.versions()
    identity = {
        **{key: value for key, value in config.model_dump(mode="json").items() if key not in FREE},
        **chosen,
        "base weights": digest,
        "data": [file["sha256"] for file in data],
        "validation": [file["sha256"] for file in validation],
        "device": hardware.device,
        "threads": hardware.threads,
        "precision": hardware.precision,
        "processes": hardware.processes,
    }
    if run.lineage.exists():
        return _same(run, identity, versions)
    document = {
        "base": {"name": logical_name(config.base_model, base), "digest": digest},
        "data": data,
        "validation": validation,
        "examples": {"train": sizes[0], "held_out": sizes[1]},
        "seed": config.seed,
        "versions": versions,
        "command": lineage.command(),
        "identity": identity,
        **(more or {}),
    }
    write_json(run.lineage, document)
    return ""


def _same(run: RunDirectory, identity: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    then = read_json(run.lineage)
    if differs := lineage.differences(then.get("identity", {}), json.loads(json.dumps(identity))):
        raise InvalidInput(
            f"{run.path}: begun otherwise, so it cannot go on: {'; '.join(differs)}. --overwrite begins anew"
        )
    if newer := lineage.differences(then.get("versions", {}), versions):
        return f"other versions than at the beginning, so the weights may differ: {'; '.join(newer)}"
    return ""


def checkpoint(run: RunDirectory, hardware: Hardware, journal: Journal) -> str | None:
    """The newest whole one to go on from; what was written after it is forgotten."""
    with in_turn(hardware):
        found, broken = checkpoints.newest_whole(run.checkpoints, hardware.processes)
    for reason in broken:
        journal.tell(f"a broken checkpoint is left aside: {reason}", logging.WARNING)
    journal.forget_after(checkpoints.step(found) if found else 0)
    if found is None:
        return None
    journal.tell(f"going on from step {checkpoints.step(found)}")
    return str(found)


def read_json(path: Path) -> dict[str, Any]:
    """{} for what is not there, or is no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
