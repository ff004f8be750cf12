"""Entries to records of the ledger, and back."""

from __future__ import annotations

from collections.abc import Callable

from gateway.catalog import ledger
from gateway.catalog.entry import Entry, Kept, Version
from gateway.model import Generation, ModelId


def record(entry: Entry) -> ledger.Record | None:
    """None for a model that has nothing to remember."""
    if entry.serving is None:
        return None
    return ledger.Record(
        model=entry.model.path,
        live=_written(entry.serving),
        directories=tuple(_seen(version) for version in entry.versions.values()),
        earlier=tuple(_written(kept) for kept in entry.earlier),
        held=tuple(sorted(entry.held)),
        breaking=entry.breaking,
        pinned=entry.pinned,
    )


def _seen(version: Version) -> ledger.Seen:
    """Content that was rejected is judged again after a start, and so has no fingerprint."""
    return ledger.Seen(
        version=version.number,
        content=_written(version.content) if version.content else None,
        fingerprint=version.fingerprint if version.content and not version.reasons else "",
        inode=version.inode or 0,
    )


def _written(kept: Kept) -> ledger.Kept:
    return ledger.Kept(digest=kept.digest, version=kept.version, number=kept.number, since=kept.since, bytes=kept.bytes)


def entry(found: ledger.Record, store: Callable[[str], Generation | None]) -> Entry:
    """As it was; what the store has lost is left out, and judged anew from its directory. Blocking."""
    known = ModelId.of(found.model)
    made = Entry(known)

    def kept(each: ledger.Kept | None) -> Kept | None:
        generation = store(each.digest) if each else None
        if each is None or generation is None:
            return None
        return Kept(generation=generation, version=each.version, number=each.number, since=each.since, bytes=each.bytes)

    made.serving = kept(found.live)
    made.earlier = tuple(each for each in map(kept, found.earlier) if each)
    made.held, made.breaking, made.pinned = frozenset(found.held), found.breaking, found.pinned
    for seen in found.directories or (ledger.Seen(),):
        version = made.versions[seen.version] = Version(ModelId(known.namespace, known.name, seen.version))
        version.content = kept(seen.content)
        if version.content is not None:
            version.fingerprint = seen.fingerprint
            _remember_base(version, version.content.generation)
        if version.content is not None or (made.serving and made.serving.version == seen.version):
            version.inode = seen.inode or None
    numbers = [each.number for each in (found.live, *found.earlier)]
    made.count = max([*numbers, *(seen.content.number for seen in found.directories if seen.content)], default=0)
    return made


def _remember_base(version: Version, generation: Generation) -> None:
    if generation.base is not None and generation.manifest.lora is not None:
        version.base = ModelId.of(generation.manifest.lora.base)
        version.base_digest = generation.base.digest
