"""Which files of a directory are the model, by an allow-list: what is not named here is never published.

What stays behind is the run's own (optimizer and random states, checkpoints, logs), what no server may run
(`*.py`), and pickled weights wherever safetensors stand beside them.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Final

from trainer.errors import NotAModel

WANTED: Final = re.compile(r".+\.(safetensors|json|txt|model)|README\.md|TRAINING_INFO\.md|chat_template\.jinja")
PICKLED_WEIGHTS: Final = re.compile(r"(pytorch|adapter)_model.*\.bin")
UNWANTED: Final = re.compile(r"trainer_state\.json|training_progress\.json|training_args\..*")
RUN_FOLDERS: Final = re.compile(r"checkpoints|checkpoint-.*|eval|logs|lost\+found")
OPENVINO: Final = ("openvino/openvino_model.xml", "openvino/openvino_model.bin")  # weights, where no others stand
MODULE_FOLDER: Final = re.compile(r"\d+_[A-Z][A-Za-z]*")  # as sentence-transformers names them: 1_Pooling
CONFIGS: Final = ("config.json", "adapter_config.json", "modules.json")


def model_directory(given: Path) -> Path:
    """The directory that holds the model: `given`, or its `final_model` when it is a training run's output.

    Raises NotAModel when there is no directory, or nothing in it says that it is a model.
    """
    if not given.is_dir():
        raise NotAModel(f"{given}: no such directory")
    if (given / "training_progress.json").is_file() and (given / "final_model").is_dir():
        given = given / "final_model"
    if not any((given / name).is_file() for name in CONFIGS):
        raise NotAModel(f"{given}: not a model: none of {', '.join(CONFIGS)} is there")
    return given


def model_files(directory: Path) -> list[PurePosixPath]:
    """The relative paths that are published, sorted.

    Raises NotAModel when there are no weights among them, or one of them is no readable regular file.
    """
    found = _wanted(directory, PurePosixPath())
    for folder in _module_folders(directory):
        found += _wanted(directory, folder)
    if not any(len(path.parts) == 1 and path.suffix in {".safetensors", ".bin"} for path in found):
        found += [PurePosixPath(name) for name in OPENVINO if (directory / name).is_file()]
    if not any(path.suffix in {".safetensors", ".bin"} for path in found):
        raise NotAModel(f"{directory}: no weights: neither *.safetensors nor pytorch_model.bin is there")
    return sorted(set(found))


def wanted(paths: Iterable[PurePosixPath]) -> set[PurePosixPath]:
    """Of the paths of a repository: those of a model, as `model_files` finds them in a directory. A folder counts when
    its modules are named as sentence-transformers names them."""
    kept = [path for path in paths if all(MODULE_FOLDER.fullmatch(part) for part in path.parts[:-1][:1])]
    kept = [path for path in kept if not any(_is_run_folder(part) for part in path.parts[:-1])]
    safe = {path.parent for path in kept if path.suffix == ".safetensors"}
    return {path for path in kept if _is_wanted(path.name, path.parent in safe)}


def _wanted(directory: Path, folder: PurePosixPath) -> list[PurePosixPath]:
    names = [entry.name for entry in (directory / folder).iterdir()]
    safe = any(name.endswith(".safetensors") for name in names)
    chosen = [folder / name for name in names if _is_wanted(name, safe)]
    return [path for path in chosen if _is_file(directory / path)]


def _is_wanted(name: str, safe: bool) -> bool:
    if name.startswith(".") or UNWANTED.fullmatch(name):
        return False
    if name.endswith((".bin", ".bin.index.json")):
        return not safe and bool(PICKLED_WEIGHTS.fullmatch(name.removesuffix(".index.json")))
    return bool(WANTED.fullmatch(name))


def _is_file(path: Path) -> bool:
    """Whether to copy it. Links are followed: a snapshot of a Hub cache is nothing but links."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise NotAModel(f"{path}: {error.strerror or error}; a link whose target is missing?") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise NotAModel(f"{path}: not a regular file")
    return stat.S_ISREG(mode)


def _module_folders(directory: Path) -> list[PurePosixPath]:
    """The folders of the modules and all below them: by their names, and as `modules.json` names them."""
    named = {entry.name for entry in directory.iterdir() if MODULE_FOLDER.fullmatch(entry.name)}
    named |= {path for path in _paths_of_modules(directory) if (directory / path).is_dir()}
    return [below for top in sorted(named) for below in _folders(directory, PurePosixPath(top))]


def _paths_of_modules(directory: Path) -> set[str]:
    listing = directory / "modules.json"
    modules = read_json(listing) if listing.is_file() else []
    paths = {str(each["path"]) for each in modules if isinstance(each, dict) and each.get("path")}
    for path in paths:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise NotAModel(f"{listing}: the path {path!r} leads out of the model")
    return paths


def _folders(directory: Path, top: PurePosixPath) -> list[PurePosixPath]:
    inner = [entry for entry in (directory / top).iterdir() if entry.is_dir() and not entry.is_symlink()]
    kept = [top / entry.name for entry in inner if not _is_run_folder(entry.name)]
    return [top] + [below for folder in kept for below in _folders(directory, folder)]


def _is_run_folder(name: str) -> bool:
    return name.startswith(".") or bool(RUN_FOLDERS.fullmatch(name))


def check(directory: Path, files: list[PurePosixPath]) -> None:
    """Raises NotAModel, naming the file, when a JSON does not parse, a shard is missing or weights are truncated."""
    for path in files:
        if path.suffix == ".safetensors":
            _check_weights(directory / path)
        elif path.suffix == ".json":
            document = read_json(directory / path)
            if path.name.endswith(".index.json"):
                _check_shards(path, document, set(files))


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  numpy: `trainer --help` must not wait for it

    try:
        with safe_open(str(path), framework="numpy"):
            pass
    except SafetensorError as error:
        raise NotAModel(f"{path.name}: truncated or damaged ({path.stat().st_size} bytes): {error}") from error


def _check_shards(path: PurePosixPath, document: Any, files: set[PurePosixPath]) -> None:
    shards = set(document.get("weight_map", {}).values()) if isinstance(document, dict) else set()
    if missing := sorted(name for name in shards if path.parent / name not in files):
        raise NotAModel(f"{path}: names weights that are not there: {', '.join(missing)}")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise NotAModel(f"{path.name}: not valid JSON: {error}") from error
