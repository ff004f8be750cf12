"""Which files of a repository make up a model: those that are loaded, and its licence. A repository brings many more,
such as the same weights in other formats, and code, which is never fetched."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final, Protocol, TypeVar

from gateway.errors import NothingToServe
from gateway.volume.files import safe_relative

SAFE: Final = re.compile(r"(?:(?:adapter_)?model(?:-\d+-of-\d+)?|pytorch_model)\.safetensors")
PICKLES: Final = re.compile(r"(?:pytorch_model(?:-\d+-of-\d+)?|adapter_model)\.bin")
INDEXES: Final = re.compile(r".*\.index(?:\.\w+)?\.json")
SAFE_INDEX: Final = "model.safetensors.index.json"
PICKLE_INDEX: Final = "pytorch_model.bin.index.json"
BESIDE: Final = re.compile(
    r".+\.(?:json|model|jinja)|vocab\.txt|merges\.txt|bpe\.codes|README\.md|(?:LICEN[CS]E|NOTICE)(?:\.txt|\.md)?"
)


class Named(Protocol):
    @property
    def path(self) -> str:
        """Relative to the repository."""


N = TypeVar("N", bound=Named)


def is_weights(path: str) -> bool:
    name = path.rpartition("/")[2]
    return bool(SAFE.fullmatch(name) or PICKLES.fullmatch(name))


def select(files: Sequence[N], folders: Collection[str], *, allow_pickle: bool) -> list[N]:
    """The files to fetch, the large ones last. `folders` are those of the model's modules; the top is "".

    Raises NothingToServe where there are no weights that the gateway would load.
    """
    inside = [file for file in files if _folder(file.path) in folders and safe_relative(file.path) == file.path]
    safe = {_folder(file.path) for file in inside if SAFE.fullmatch(_name(file.path))}
    pickled = {_folder(file.path) for file in inside if PICKLES.fullmatch(_name(file.path))} - safe
    if pickled and not allow_pickle:
        where = ", ".join(sorted(folder or "the top" for folder in pickled))
        raise NothingToServe(f"its only weights in {where} are pickles, and --allow-pickle is not set")
    if not safe | pickled:
        raise NothingToServe("it has no weights in safetensors")
    chosen = [file for file in inside if _is_chosen(file.path, pickled=_folder(file.path) in pickled)]
    return sorted(chosen, key=lambda file: (is_weights(file.path), file.path))


def _is_chosen(path: str, *, pickled: bool) -> bool:
    name = _name(path)
    if INDEXES.fullmatch(name):
        return name == (PICKLE_INDEX if pickled else SAFE_INDEX)
    return bool((PICKLES if pickled else SAFE).fullmatch(name) or BESIDE.fullmatch(name))


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]
