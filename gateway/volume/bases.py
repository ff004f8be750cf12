"""Where is the base of an adapter? An adapter says it by a Hub id, by a path on the machine that trained it, or by a
path on the volume. The path is never trusted: a base is a model on this volume, found by its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from gateway.errors import InvalidModelId
from gateway.model import HUB_CACHE, NAME, PREFIX, Generation, ModelId, ModelRef
from gateway.volume import source
from gateway.volume.directory import Directory
from gateway.volume.files import read_capped
from gateway.volume.reasons import Unfit
from gateway.volume.tables import CAP, read_table

ALIASES: Final = "aliases.toml"
TABLES: Final = ("bases", "aliases")  # of that file; the first one is for bases alone
NAMESPACE: Final = "base"
ANCHORS: Final = frozenset({"config.json", "modules.json"})
ADAPTER: Final = "adapter_config.json"
SEPARATORS: Final = re.compile(r"[/\\]+")  # a path may come from any machine


def find_base(references: Sequence[str], root: str) -> ModelId | None:
    """The model on the volume that one of the references means, the best one first.

    By id or path on the volume and by the Hub cache's layout, then by aliases.toml, then by the last part of the
    reference under base/. None when none is there. Blocking; it reads names, and aliases.toml.
    """
    found = search(references, root)
    return found.directory.model if found else None


class Base(NamedTuple):
    """The model that an adapter changes, and what that is now. `model` has a version where the adapter names one."""

    model: ModelId
    generation: Generation


class Found(NamedTuple):
    """`model` has a version only where a reference names one; of several the `directory` is the highest."""

    model: ModelId
    directory: Directory


def search(references: Sequence[str], root: str) -> Found | None:
    """As `find_base`, and the directory with it."""
    for candidate in _candidates(references, root):
        directory = source.find(root, candidate)
        if directory is None or directory.error:
            continue
        names = {file.path for file in directory.files}
        if names & ANCHORS and ADAPTER not in names:  # an adapter over an adapter is none
            return Found(msgspec.structs.replace(directory.model, version=candidate.version), directory)
    return None


def _candidates(references: Sequence[str], root: str) -> Iterator[ModelId]:
    for reference in references:
        yield from _meant(reference, root)
        cached = [part for part in SEPARATORS.split(reference) if part.startswith(HUB_CACHE)]
        yield from (model for part in cached for model in _meant(part, root))
    named = _named(root)
    for reference in references:
        if target := named.get(reference.removeprefix(PREFIX)):
            yield from _meant(target, root)
    for reference in references:
        last = SEPARATORS.split(reference.rstrip("/\\"))[-1]
        if NAME.fullmatch(last):
            yield ModelId(NAMESPACE, last)


def _meant(spelling: str, root: str) -> tuple[ModelId, ...]:
    try:
        return ModelRef.parse(spelling, root).candidates
    except InvalidModelId:  # a path of another machine
        return ()


def _named(root: str) -> dict[str, str]:
    """Name -> what it stands for, of aliases.toml. A broken file has none: whoever serves aliases tells of it."""
    try:
        content = read_capped(os.path.join(root, ALIASES), root, CAP, ALIASES)
        document = read_table(content.decode())
    except (Unfit, ValueError, RecursionError):
        return {}
    found: dict[str, str] = {}
    for table in TABLES:
        entries = document.get(table)
        for name, value in (entries if isinstance(entries, dict) else {}).items():
            if target := _target(value):
                found.setdefault(name.removeprefix(PREFIX), target)
    return found


def _target(value: Any) -> str | None:
    """`"base/x"`, or `{ to = "base/x" }`; which generation of it is of no interest here."""
    value = value.get("to") if isinstance(value, dict) else value
    return value.partition("@")[0] if isinstance(value, str) else None
