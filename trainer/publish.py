"""Publish: to make a finished model appear on the volume, whole or not at all.

The files are staged under a dot-name beside their destination, which the gateway ignores, checked there and made
durable; one rename is the moment of publication. Whatever ends this early leaves the volume as it was; what is killed
leaves that to the next publication.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from trainer.contents import MODULE_FOLDER, RUN_FOLDERS, check, model_directory, model_files
from trainer.errors import InvalidInput, TrainerError
from trainer.exchange import put_in_place
from trainer.metadata import FILE as METADATA
from trainer.staging import staging, sweep

SUMS: Final = "SHA256SUMS"
CHUNK: Final = 4 * 1024**2
VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")  # as the gateway reads them: no leading zero
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
COPY_IN_PROGRESS: Final = re.compile(r".*\.(partial|part|tmp|incomplete|crdownload|aria2|filepart)")

Progress = Callable[[int, int], None]  # bytes done, bytes in all
Describe = Callable[[Path], Mapping[str, Any]]  # a whole copy of the model -> its model_metadata.json
Version = int | Literal["next"] | None


@dataclass(frozen=True, slots=True)
class Published:
    """`bytes` as they lie on the volume, `leftover` the replaced model where it could not be removed."""

    path: Path
    model: str
    files: int
    bytes: int
    replaced: bool
    leftover: Path | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be published: `files` of `directory`, with so many `bytes`, as `target`."""

    directory: Path
    files: tuple[PurePosixPath, ...]
    bytes: int
    target: Path
    model: str
    replaces: bool


def plan(source: Path, model: str, models_dir: Path, *, version: Version = None, replace: bool = True) -> Plan:
    """What `publish` would do. Raises as it does, for what can be told before anything is copied."""
    namespace, name = parse_name(model)
    target = models_dir / namespace / name
    if version is not None:
        number = highest_version(target) + 1 if version == "next" else version
        target, model = target / str(number), f"{model}/{number}"
    directory = _checked_source(source, target, models_dir, replace)
    if version is None and highest_version(target):
        raise InvalidInput(
            f"{target} has numbered versions, which would be lost; publish one more: --version-number next"
        )
    files = tuple(model_files(directory))
    total = sum((directory / path).stat().st_size for path in files)
    return Plan(directory, files, total, target, model, os.path.lexists(target))


def publish(
    source: Path,
    model: str,
    models_dir: Path,
    *,
    version: Version = None,
    replace: bool = True,
    describe: Describe | None = None,
    progress: Progress = lambda done, total: None,
) -> Published:
    """Makes the model in `source` appear as `models_dir/<namespace>/<name>`; `model` is that `namespace/name`, and a
    `version` a numbered directory in it.

    `describe` sees the whole copy before anybody else does: what it returns becomes the model's metadata, and what it
    raises ends everything. Raises InvalidInput for a name, a directory or a destination that cannot be published,
    TrainerError when the volume cannot take it.
    """
    restore(model, models_dir)
    try:
        planned = plan(source, model, models_dir, version=version, replace=replace)
        return _publish(planned, replace=replace and version != "next", describe=describe, progress=progress)
    except OSError as error:
        raise TrainerError(f"{error.filename or models_dir}: {error.strerror or error}") from error


def restore(model: str, models_dir: Path) -> None:
    """Has publications that were killed end, before anybody asks what answers for the name. Raises InvalidInput for no
    name."""
    target = models_dir.joinpath(*parse_name(model))
    for folder in (target.parent, target):  # versions are staged in the model's own
        sweep(folder)


def highest_version(target: Path) -> int:
    """The highest number there is below a model's name, whole or not; 0 where there is none."""
    found = [int(entry.name) for entry in target.iterdir() if VERSION.fullmatch(entry.name)] if target.is_dir() else []
    return max(found, default=0)


def _checked_source(source: Path, target: Path, models_dir: Path, replace: bool) -> Path:
    if not models_dir.is_dir():
        raise InvalidInput(
            f"{models_dir}: no such models directory; is the volume mounted? else: mkdir -p {models_dir}"
        )
    directory = model_directory(source)
    if target.exists() and target.samefile(directory):
        raise InvalidInput(f"{directory}: this is the published model itself")
    if not replace and os.path.lexists(target):
        raise InvalidInput(f"{target} is there already; --replace replaces it")
    return directory


def parse_name(model: str) -> tuple[str, str]:
    """`namespace/name` -> its two parts. Raises InvalidInput for what the gateway would not list."""
    parts = model.split("/")
    if len(parts) != 2 or not all(NAME.fullmatch(part) for part in parts):
        raise InvalidInput(
            f"{model!r}: expected NAMESPACE/NAME, such as finetuned/physics; each begins with a letter or digit "
            "and has at most 128 letters, digits, '.', '_' and '-'"
        )
    for part in parts:
        if RUN_FOLDERS.fullmatch(part) or MODULE_FOLDER.fullmatch(part) or COPY_IN_PROGRESS.fullmatch(part):
            raise InvalidInput(f"{model!r}: the gateway never takes {part!r} for a model; choose another name")
    return parts[0], parts[1]


def _publish(planned: Plan, *, replace: bool, describe: Describe | None, progress: Progress) -> Published:
    directory, target = planned.directory, planned.target
    _check_space(_nearest(target), planned.bytes)
    with _staging(target) as stage:
        sums = _copy(directory, list(planned.files), stage, planned.bytes, progress)
        check(stage, list(planned.files))
        if describe is not None:
            sums[PurePosixPath(METADATA)] = _write_metadata(stage / METADATA, describe(stage))
        _write_sums(stage / SUMS, sums)
        _sync_folders(stage)
        replaced = put_in_place(stage, target, replace)
        _sync(target.parent)
        size = sum((target / path).stat().st_size for path in sums)
    leftover = stage if os.path.lexists(stage) else None
    return Published(target, planned.model, len(sums), size, replaced, leftover)


def _nearest(target: Path) -> Path:
    """The folder above that is there."""
    return next(folder for folder in target.parents if folder.is_dir())


def _write_metadata(path: Path, fields: Mapping[str, Any]) -> str:
    """In the place of the copied one. Returns its sha256."""
    content = (json.dumps(dict(fields), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    path.unlink(missing_ok=True)
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(content).hexdigest()


def _check_space(volume: Path, wanted: int) -> None:
    free = shutil.disk_usage(volume).free
    if free < wanted:
        raise TrainerError(f"{volume}: the model has {wanted} bytes, and {free} are free")


@contextlib.contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, in folders that go with it unless it is published."""
    made = [folder for folder in (target.parent.parent, target.parent) if _make(folder)]
    try:
        with staging(target) as stage:
            yield stage
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # not empty: it is published
                folder.rmdir()


def _make(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _copy(
    directory: Path, files: list[PurePosixPath], stage: Path, total: int, progress: Progress
) -> dict[PurePosixPath, str]:
    """Copies and makes durable; path -> sha256."""
    sums, done = {}, 0
    for path in files:
        (stage / path).parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        for chunk in _copied(directory / path, stage / path):
            digest.update(chunk)
            done += len(chunk)
            progress(done, total)
        sums[path] = digest.hexdigest()
    return sums


def _copied(source: Path, target: Path) -> Iterator[bytes]:
    # a new file, so that its mode follows the umask: safetensors writes 0600, which another user's gateway cannot read
    with source.open("rb") as reading, target.open("xb") as writing:
        before = os.fstat(reading.fileno())
        left = before.st_size  # and no more: a file that someone appends to would never end
        while chunk := reading.read(min(CHUNK, left)):
            left -= writing.write(chunk)
            yield chunk
        after = os.fstat(reading.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise InvalidInput(f"{source}: changed while it was copied; publish when the training has ended")
        writing.flush()
        os.fsync(writing.fileno())


def _write_sums(path: Path, sums: dict[PurePosixPath, str]) -> None:
    """As `sha256sum` writes it. It is written last: with it the gateway knows the last byte when it comes."""
    with path.open("x", encoding="utf-8", errors="surrogateescape") as stream:
        stream.writelines(_sum_line(str(name), digest) for name, digest in sums.items())
        stream.flush()
        os.fsync(stream.fileno())


def _sum_line(name: str, digest: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def _sync_folders(top: Path) -> None:
    for folder, _, _ in os.walk(top):
        _sync(Path(folder))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
