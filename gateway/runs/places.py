"""Where training runs lie: in a folder of runs, and on the volume, beside and inside what is served.

    <runs>/<name>                    a run; seen by those who see everything
    <runs>/<namespace>/<name>        a run of a namespace; seen by those who see that model
    <models>/.runs/...               the same two on the volume, where no model is looked for
    <models>/<namespace>/<name>      a run whose final model is served from where it was made

No link is followed, and no more is looked at than a person could want to see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from gateway.model import NAME, ModelId
from gateway.parsing import BUCKET
from gateway.volume.directory import is_apart

MARKS: Final = ("training_progress.json", "training_metrics.jsonl", "resolved_config.json", "lineage.json")
ON_VOLUME: Final = MARKS[:2]  # a published model may have a lineage too, and is no run for that
HIDDEN: Final = ".runs"
MOST_ENTRIES: Final = 4000  # of a folder that are looked at
LONGEST_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class Run:
    """A run's directory. `id` is what it is asked for by; `owner` the model whose callers see it, None for those who
    see everything."""

    id: str
    name: str
    path: str
    owner: ModelId | None


def folder_of_runs(models_dir: str, runs_dir: str) -> str:
    """The folder that was named, or `runs` beside the models root; of a bucket, in the working directory."""
    if models_dir.startswith(BUCKET):
        return runs_dir or os.path.abspath("runs")
    return runs_dir or os.path.join(os.path.dirname(os.path.abspath(models_dir)), "runs")


def find(models_dir: str, runs_dir: str) -> Iterator[Run]:
    """Every run, each once. Blocking."""
    seen: set[str] = set()
    for run in _all(os.path.realpath(models_dir), os.path.realpath(folder_of_runs(models_dir, runs_dir))):
        if run.path not in seen:
            seen.add(run.path)
            yield run


def _all(models: str, runs: str) -> Iterator[Run]:
    if runs != models:
        yield from _in_runs(runs, "runs")
    if not os.path.islink(os.path.join(models, HIDDEN)):
        yield from _in_runs(os.path.join(models, HIDDEN), f"models/{HIDDEN}")
    yield from _on_volume(models)


def _in_runs(place: str, prefix: str) -> Iterator[Run]:
    for name, path in _folders(place):
        if _has(path, MARKS):
            yield Run(f"{prefix}/{name}", name, path, None)
            continue
        for below, inner in _folders(path):
            if _has(inner, MARKS):
                yield Run(f"{prefix}/{name}/{below}", below, inner, _model(name, below))


def _on_volume(models: str) -> Iterator[Run]:
    for name, path in _folders(models):
        if is_apart(name):
            continue
        if _has(path, ON_VOLUME):
            yield Run(f"models/{name}", name, path, _model(None, name))
        for below, inner in _folders(path):
            if not is_apart(below) and _has(inner, ON_VOLUME):
                yield Run(f"models/{name}/{below}", below, inner, _model(name, below))


def _model(namespace: str | None, name: str) -> ModelId | None:
    named = [part for part in (namespace, name) if part is not None]
    return ModelId(namespace, name) if all(NAME.fullmatch(part) for part in named) else None


def _folders(path: str) -> list[tuple[str, str]]:
    """Directories with a name that can be written down; none where the operating system says no."""
    try:
        with os.scandir(path) as entries:
            found = [
                (entry.name, entry.path)
                for entry in islice(entries, MOST_ENTRIES)
                if entry.is_dir(follow_symlinks=False) and _is_readable(entry.name)
            ]
    except OSError:
        return []
    return sorted(found)


def _is_readable(name: str) -> bool:
    return name.isprintable() and len(name) <= LONGEST_NAME and not name.startswith(".")


def _has(path: str, names: tuple[str, ...]) -> bool:
    return any(os.path.lexists(os.path.join(path, name)) for name in names)
