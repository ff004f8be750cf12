"""Pull: a model of a hub becomes a plain directory, whole or not at all.

It comes into a folder under a dot-name beside its destination, which stays when this is cut short: the next try goes on
from there. Every file is held to the digest that the hub lists, and one rename is the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from trainer.contents import check, model_files
from trainer.errors import InvalidInput, TrainerError
from trainer.exchange import put_in_place
from trainer.hub import Hub, RemoteFile, Repository, model_of
from trainer.run import write_json
from trainer.staging import PULL, held, sweep

MARKER: Final = ".pull.json"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Pulled:
    path: Path
    name: str
    commit: str
    files: int
    bytes: int


def pull(
    hub: Hub,
    name: str,
    revision: str,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Pulled:
    """Raises InvalidInput for what the hub has not and a `target` that is taken, TrainerError for what may be tried
    again."""
    sweep(target.absolute().parent)
    if os.path.lexists(target) and not overwrite:
        raise InvalidInput(f"{target} is there already; --overwrite replaces it")
    found = hub.look(name, revision)
    files = model_of(found.files)
    total = sum(file.size or 0 for file in files)
    try:
        with _stage(target, f"{name}@{found.commit}") as stage:
            _fetch(hub, replace(found, files=tuple(files)), stage, progress)
            check(stage, model_files(stage))
            (stage / MARKER).unlink()
            if put_in_place(stage, target, overwrite):
                shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise TrainerError(f"{error.filename or target}: {error.strerror or error}") from error
    return Pulled(target, name, found.commit, len(files), total)


@contextlib.contextmanager
def _stage(target: Path, content: str) -> Iterator[Path]:
    """The folder that it comes into, with what an earlier try of the same commit has left, and nobody else in it."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = target.parent / f".{target.name}.{PULL}"
    try:
        with held(stage):
            stage.mkdir(exist_ok=True)
            marker = stage / MARKER
            if not marker.is_file() or content not in marker.read_text(encoding="utf-8"):
                _empty(stage)
                write_json(marker, {"of": content})
            yield stage
    except BlockingIOError:
        raise TrainerError(f"{target}: another pull to this place is under way") from None


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _fetch(hub: Hub, found: Repository, stage: Path, progress: Progress) -> None:
    done, total = 0, sum(file.size or 0 for file in found.files)
    for file in found.files:
        path = stage / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.fetch(found, file, path, lambda size, before=done: progress(before + size, total))  # type: ignore[misc]
        _verify(path, file)
        done += path.stat().st_size


def _verify(path: Path, file: RemoteFile) -> None:
    """Raises TrainerError, and removes the file: the next try fetches it anew."""
    size = path.stat().st_size
    if file.size in {None, size} and _digest(path, file) in {file.sha256, file.blob}:
        return
    path.unlink()
    raise TrainerError(f"{file.path}: the {size} bytes that came are not those that the hub lists; try again")


def _digest(path: Path, file: RemoteFile) -> str | None:
    with path.open("rb") as stream:
        if file.sha256:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        content = stream.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() if file.blob else None
