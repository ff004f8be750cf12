"""What is known of directories in a bucket without reading a file system: digests of what was fetched, whether a
listing proves itself, and how far a fetch is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway import events
from gateway.volume.directory import Directory, FileStat
from gateway.volume.sums import Checked, Sums
from gateway.volume.writers import Writer


class Digest(Protocol):
    def __call__(self, directory: Directory, name: str, *, fetch: bool) -> str | None:
        """The SHA-256 of a file, which is fetched for it or not."""


class FetchedSums(Sums):
    """Digests of what is open: what is not here yet is fetched for them."""

    def __init__(self, root: str, digest: Digest) -> None:
        super().__init__(root)
        self._digest = digest

    def digest(self, directory: Directory, file: FileStat) -> str:
        return self._digest(directory, file.path, fetch=True) or ""

    def known(self, directory: Directory, file: FileStat) -> str | None:
        return self._digest(directory, file.path, fetch=False)


class ListedEvidence:
    """An object is whole or not there, and whoever puts it there is never seen."""

    def __init__(self, proven: Callable[[Directory], bool]) -> None:
        self._proven = proven

    def begin(self) -> None:
        return

    def hole(self, directory: Directory) -> str | None:
        return None

    def writer(self, directory: Directory, changed: float) -> Writer | None:
        return None

    def checked(self, directory: Directory) -> Checked:
        return Checked(verified=self._proven(directory))


class Progress:
    """How much of a directory has come: told at the beginning, and with every tenth."""

    def __init__(self, model: str, total: int, tell: Callable[[events.Event], None]) -> None:
        self._model = model
        self._total = total
        self._tell = tell
        self._come = 0
        self._say()

    def __call__(self, count: int) -> None:
        before = self._come * 10 // max(1, self._total)
        self._come += count  # of several threads: one that is counted too late is told too late, and no more
        if self._come * 10 // max(1, self._total) > before:
            self._say()

    def _say(self) -> None:
        self._tell(events.ModelFetching(model=self._model, bytes=self._come, total=self._total))
