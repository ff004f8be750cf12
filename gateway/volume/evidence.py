"""The expensive facts about a directory, which settling asks for only when it is about to believe it."""

from __future__ import annotations

import os

from gateway.volume import files, writers
from gateway.volume.directory import Directory
from gateway.volume.reasons import Unfit
from gateway.volume.sums import Checked, Sums
from gateway.volume.writers import Writer


class VolumeEvidence:
    """What the operating system and the files say. Blocking; for one lane of one thread, and `checked` for any."""

    def __init__(self, root: str, sums: Sums | None = None) -> None:
        self._root = os.path.realpath(root)
        self._sums = sums or Sums(self._root)
        self._writers: list[Writer] | None = None  # one pass over /proc serves all the directories of one look

    def begin(self) -> None:
        """A new look: who was writing at the last one says nothing."""
        self._writers = None

    def hole(self, directory: Directory) -> str | None:
        """A file with bytes that were never written, if there is one."""
        for file in directory.files:
            if file.is_regular and file.size and self._has_hole(directory, file.path):
                return file.path
        return None

    def _has_hole(self, directory: Directory, path: str) -> bool:
        try:
            with files.open_regular(os.path.join(directory.path, path), self._root, path) as descriptor:
                return files.has_hole(descriptor)
        except Unfit:  # unreadable or a link out: judging the directory names it, waiting does not heal it
            return False

    def writer(self, directory: Directory, changed: float) -> Writer | None:
        """Who may be writing to it; `changed` is when it last changed, in wall-clock seconds."""
        if self._writers is None:
            self._writers = writers.find(self._root)
        return writers.writing(directory, self._writers, changed)

    def checked(self, directory: Directory) -> Checked:
        """What its SHA256SUMS says of it."""
        return self._sums.check(directory)
