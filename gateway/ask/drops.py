"""The watched directory of documents, looked at whole: which files lie there, and which of them have stopped changing.

`<root>/<knowledge base>/<document>`, as deep as one likes. The rules are those of the models volume, for single files:
quiet for a while by our own clock, no name of a copy in progress, nobody who has it open for writing; and a file that
is gone has to stay away as long before that is believed. What cannot be read says nothing, and takes nothing away.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gateway.model import NAME
from gateway.volume.directory import IN_PROGRESS
from gateway.volume.writers import find

DEEPEST: Final = 16  # folders below a knowledge base's

Where = tuple[str, str]  # the knowledge base, and the document's name in it


class Dropped(msgspec.Struct, frozen=True):
    """A file, and a fingerprint that changes with whatever could matter."""

    kb: str
    name: str
    path: str
    fingerprint: tuple[int, ...]

    @property
    def where(self) -> Where:
        return self.kb, self.name


class Look(msgspec.Struct, frozen=True):
    """Everything that lies there. Of the knowledge bases in `unknown` not all could be read; `written` are files that
    somebody has open for writing."""

    files: dict[Where, Dropped]
    unknown: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()


def look(root: str, suffixes: Collection[str]) -> Look:
    """Raises OSError when the root itself cannot be read: then nothing is known."""
    real = os.path.realpath(root)
    files: dict[Where, Dropped] = {}
    unknown = set()
    with os.scandir(real) as entries:
        folders = [entry.name for entry in entries if NAME.fullmatch(entry.name) and entry.is_dir()]
    for kb in folders:
        try:
            found = list(_files(real, kb, Path(real, kb), suffixes))
        except OSError:
            unknown.add(kb)
            continue
        files |= {each.where: each for each in found}
    written = {writer.path for writer in find(real) if writer.held == "file"}
    return Look(files, frozenset(unknown), frozenset(written))


def fingerprint(path: str) -> tuple[int, ...] | None:
    """None for what is no file, or no more there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _files(
    root: str, kb: str, folder: Path, suffixes: Collection[str], above: tuple[str, ...] = ()
) -> Iterator[Dropped]:
    """Hidden files, copies in progress, links that lead out of the root and links to a folder that they lie in are not
    there. `above` are the folders, without links, that lead here."""
    above = (*above, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith(".") or IN_PROGRESS.fullmatch(entry.name):
            continue
        real = os.path.realpath(entry.path)
        if not real.startswith(root + os.sep):
            continue
        if entry.is_dir():
            if len(above) <= DEEPEST and real not in above:  # else every loop is walked to the deepest
                yield from _files(root, kb, Path(entry.path), suffixes, above)
        elif entry.name.lower().endswith(tuple(suffixes)) and (known := fingerprint(real)) is not None:
            yield Dropped(kb, os.path.relpath(entry.path, os.path.join(root, kb)), real, known)


@dataclass(slots=True)
class _Track:
    """`since` it is as it is, or away; `taken` is the fingerprint that was acted upon."""

    since: float
    there: Dropped | None
    taken: tuple[int, ...] | None = None
    looks: int = 0  # in which it was away


class Settling:
    """Turns looks into what is to be done. No I/O."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._tracks: dict[Where, _Track] = {}

    def know(self, where: Where, now: float) -> None:
        """A document that was taken from here before this process began."""
        self._tracks.setdefault(where, _Track(now, None, ()))

    def observe(self, found: Look, now: float) -> tuple[list[Dropped], list[Where]]:
        """Files that have settled and are to be put in, and documents whose files have gone for good."""
        for where, file in found.files.items():
            track = self._tracks.setdefault(where, _Track(now, file))
            if track.there is None or track.there.fingerprint != file.fingerprint or file.path in found.written:
                track.since, track.there, track.looks = now, file, 0
        ready, gone = [], []
        for where, track in list(self._tracks.items()):
            quiet = now >= track.since + self._seconds
            if where in found.files:
                if quiet and track.there is not None and track.taken != track.there.fingerprint:
                    ready.append(track.there)
            elif where[0] not in found.unknown and self._is_gone(track, now):
                gone.append(where)
        return ready, gone

    def _is_gone(self, track: _Track, now: float) -> bool:
        if track.there is not None or not track.looks:
            track.since, track.there, track.looks = now, None, 1
            return False
        track.looks += 1
        return now >= track.since + self._seconds

    def done(self, file: Dropped) -> None:
        """It was put in as it is, or never will be."""
        self._tracks[file.where].taken = file.fingerprint

    def forget(self, where: Where) -> None:
        self._tracks.pop(where, None)
