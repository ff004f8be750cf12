"""Generations whose weights were taken from the disk, to be fetched again when somebody asks: what they are, their
small files and their name stay. A mark says so, from before the first weight goes until after the last one is back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from gateway.volume.copying import Changed, storing
from gateway.volume.generations import FILES, THIN, Store
from gateway.volume.record import StoredFile

WRITABLE: Final = 0o700
SEALED: Final = 0o555

Take = Callable[[str, str], tuple[int, str]]  # a file of the store, its place -> its size and SHA-256


class Thin:
    """Blocking; each generation is one thread's at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def digests(self) -> set[str]:
        return {digest for digest in self._store.digests() if os.path.lexists(self._mark(digest))}

    def weights(self, digest: str) -> tuple[StoredFile, ...]:
        """What is taken away; nothing of a generation that is not there, or is served in place."""
        record = self._store.record(digest)
        if record is None or record.place is not None:
            return ()
        return tuple(file for file in record.files if file.path in record.manifest.weights)

    def cut(self, digest: str) -> None:
        """Nothing may be using it. Raises Refused."""
        with storing():
            with open(self._mark(digest), "wb") as mark:
                os.fsync(mark.fileno())
            for file in self.weights(digest):
                with self._unsealed(digest, file) as path, suppress(FileNotFoundError):
                    os.unlink(path)

    def fill(self, digest: str, take: Take) -> None:
        """Has every weight again, each the one that it was. Raises Changed where one is another, and Refused."""
        for file in self.weights(digest):
            with self._unsealed(digest, file) as path:
                if os.path.lexists(path):
                    continue
                if take(file.path, path) != (file.size, file.sha256):
                    os.unlink(path)
                    raise Changed(file.path)
        with storing(), suppress(FileNotFoundError):
            os.unlink(self._mark(digest))

    @contextmanager
    def _unsealed(self, digest: str, file: StoredFile) -> Iterator[str]:
        path = os.path.join(self._store.folder(digest), FILES, file.path)
        with storing():
            os.chmod(os.path.dirname(path), WRITABLE)
        try:
            yield path
        finally:
            with storing():
                os.chmod(os.path.dirname(path), SEALED)

    def _mark(self, digest: str) -> str:
        return os.path.join(self._store.folder(digest), THIN)
