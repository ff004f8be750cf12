"""Which directory the models were last seen in, kept over restarts: an unmount leaves an empty one in its place, which
says nothing of them."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

import msgspec

from gateway import atomic
from gateway.volume.source import Scan, VolumeUnreadable

OTHER: Final = "the models directory is another one than models were last seen in, and empty"

Known = tuple[int, int] | None


class Root:
    """The (st_dev, st_ino) of the last look with models in it. Blocking; for the one lane that looks."""

    def __init__(self, models_dir: str, state_dir: str) -> None:
        self._models_dir = models_dir
        self._path = os.path.join(state_dir, "root.json")
        self._kept = self._last = self._read()
        self._empty = False  # the last look found this directory, and nothing in it

    def check(self, found: Scan) -> None:
        """Raises VolumeUnreadable for a look that found nothing, and that in another directory."""
        if not found.directories and self._last not in (None, found.root):
            raise VolumeUnreadable(self._models_dir, OSError(errno.ENODEV, OTHER))
        empty = not found.directories and not found.unreadable
        if found.directories:
            self._last = found.root
        elif empty and self._empty:  # for the second time: no unmount during the look. There is nothing left to lose
            self._last = None
        self._empty = empty
        if self._last != self._kept:
            with suppress(OSError):  # tried again at the next look
                self._write(self._last)

    def _read(self) -> Known:
        """None also where it cannot be read: then an empty directory is believed, as at the first start."""
        try:
            with open(self._path, "rb") as stream:
                known: Known = msgspec.json.decode(stream.read(), type=Known)
        except (OSError, ValueError, msgspec.MsgspecError):
            return None
        return known

    def _write(self, root: Known) -> None:
        atomic.write(self._path, msgspec.json.encode(root))
        self._kept = root
