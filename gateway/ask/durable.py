"""A directory that outlives a power cut: LanceDB itself asks no disk to write anything down.

Files of a table are written once and never changed, under names that never come back, so a name that was synced once is
synced for good; all but CHANGING. Whoever makes a table durable makes all of it so, also what another process wrote and
did not live to sync: its files stand below everything that comes later.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Final

from gateway.errors import KnowledgeDirUnsuitable


def probe(folder: str) -> None:
    """Raises KnowledgeDirUnsuitable where files cannot be written or hard-linked, which is how a commit is made."""
    here = os.path.join(folder, f".probe-{uuid.uuid4().hex}")
    there = f"{here}.linked"
    try:
        os.makedirs(folder, exist_ok=True)
        with open(here, "wb") as stream:
            stream.write(b"probe")
            os.fsync(stream.fileno())
        _linked(here, there, folder)
    except OSError as error:
        raise KnowledgeDirUnsuitable(f"{folder} cannot be written: {error.strerror or error}", path=folder) from error
    finally:
        for path in (here, there):
            if os.path.lexists(path):
                os.unlink(path)


def _linked(here: str, there: str, folder: str) -> None:
    try:
        os.link(here, there)
    except OSError as error:
        why = error.strerror or str(error)
        message = f"the file system of {folder} has no hard links ({why}): take a local disk, NFS, or an s3:// bucket"
        raise KnowledgeDirUnsuitable(message, path=folder) from error


CHANGING: Final = frozenset({"latest_version_hint.json"})  # written anew with each commit


class Synced:
    """Which files are known to be on the disk. Used by one thread at a time."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def sync(self, folder: str) -> None:
        """Makes everything below `folder` durable, and the entry of `folder` itself. Files that go meanwhile have been
        replaced by others, which are there."""
        for path, names in _folders(folder):
            known = self._names.get(path, set())
            if fresh := names - (known - CHANGING):
                for name in fresh:
                    _fsync(os.path.join(path, name))
                _fsync(path)
            self._names[path] = names
        _fsync(os.path.dirname(folder))

    def forget(self, folder: str) -> None:
        for path in [path for path in self._names if path == folder or path.startswith(folder + os.sep)]:
            del self._names[path]


def _folders(folder: str) -> Iterator[tuple[str, set[str]]]:
    """Each folder below and its entries, innermost first: an entry is durable before what refers to it."""
    for path, folders, files in os.walk(folder, topdown=False):
        yield path, set(files) | set(folders)


def _fsync(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
