"""What a client's reference means: a directory of that name, else an alias, else the only model of a bare name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from gateway.catalog import aliases
from gateway.catalog.entry import Entry
from gateway.errors import ModelNotFound
from gateway.model import ModelId, ModelRef


def exact(entries: Mapping[ModelId, Entry], ref: ModelRef) -> tuple[Entry, int | None] | None:
    """A directory that has one of the names that were meant, and the version that was asked for."""
    for candidate in ref.candidates:
        entry = entries.get(candidate.family)
        if entry is not None and (candidate.version is None or candidate.version in entry.versions):
            return entry, candidate.version
    return None


def bare(entries: Mapping[ModelId, Entry], ref: ModelRef) -> Entry | None:
    """The only model of a bare name. Raises ModelNotFound when there are several."""
    names = {candidate.name for candidate in ref.candidates}
    found = [entry for entry in entries.values() if ref.bare and entry.model.name in names]
    if len(found) > 1:
        several = ", ".join(sorted(str(entry.model) for entry in found))
        raise ModelNotFound(f"{ref.spelling!r} is in several namespaces: {several}", model=ref.spelling)
    return found[0] if found else None


def not_found(entries: Mapping[ModelId, Entry], table: aliases.Table, ref: ModelRef) -> ModelNotFound:
    """To be raised: what was looked for, and what is like it."""
    looked_for = " or ".join(candidate.path for candidate in ref.candidates)
    closest = _closest([*entries, *table], ref)
    hint = f"; the closest are {', '.join(closest)}" if closest else "; the volume holds none like it"
    versions = _versions(entries, ref)
    return ModelNotFound(
        f"no model {ref.spelling!r}: looked for {looked_for} on the volume{versions or hint}",
        model=ref.spelling,
        closest=closest,
    )


def _versions(entries: Mapping[ModelId, Entry], ref: ModelRef) -> str:
    for candidate in ref.candidates:
        entry = entries.get(candidate.family)
        if entry is not None and candidate.version is not None:
            numbers = ", ".join(str(number) for number in sorted(n for n in entry.versions if n is not None))
            return f"; {entry.model} has {f'the versions {numbers}' if numbers else 'no versions'}"
    return ""


def _closest(known: list[ModelId], ref: ModelRef) -> list[str]:
    paths = {model.path: str(model) for model in known}
    names = {model.name: str(model) for model in known}
    wanted = ref.candidates[0].family
    # a bare name has no namespace to compare, and a namespace that is the same makes all of it alike
    found = [] if ref.bare else difflib.get_close_matches(wanted.path, paths, 3, 0.8)
    by_name = difflib.get_close_matches(wanted.name, names, 3, 0.5)
    return list(dict.fromkeys([*(paths[path] for path in found), *(names[name] for name in by_name)]))[:3]
