"""The volume, wherever it is: a directory tree of this machine, or what stands in its place.

Whoever looks and whoever judges asks here; the file system's own is all of this page that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol

from gateway.settings import Settings
from gateway.volume import mounts
from gateway.volume.directory import Directory
from gateway.volume.evidence import VolumeEvidence
from gateway.volume.root import Root
from gateway.volume.settle import Evidence
from gateway.volume.source import Scan, scan
from gateway.volume.watch import Watcher

LOCAL_PERIOD: Final = 5.0
NETWORK_PERIOD: Final = 2.0

Way = Literal["events", "polling"]


class Volume(Protocol):
    """`place` is what an operator calls it, and `root` the folder of this machine that is looked at. `shared` says that
    others write unseen, by clocks of their own; `period` is in seconds."""

    place: str
    root: str
    kind: str
    way: Way
    shared: bool
    period: float

    def scan(self) -> Scan:
        """All that lies there. Raises VolumeUnreadable."""

    def evidence(self) -> Evidence:
        """What can be known of directories that have not settled."""

    def watcher(self, on_hint: Callable[[], None]) -> Watcher | None:
        """What gives hints; None where nothing does."""

    def open(self, directory: Directory) -> Directory:
        """The directory where it can be read. Until `shut`. Raises Changed and Refused."""

    def shut(self, directory: Directory) -> None:
        """What was opened is not read any more. Does not block."""


class FileVolume:
    """A directory tree, on a disk of this machine or on one that many machines mount."""

    def __init__(self, settings: Settings) -> None:
        self.place = self.root = settings.models_dir
        self.kind = mounts.kind(self.root)
        self.way: Way = "polling" if settings.watch == "polling" else "events"
        self.shared = self.way == "polling"
        if settings.watch == "auto" and mounts.is_network(self.root):
            self.way, self.shared = "polling", True
        self._deaf = settings.watch == "polling"
        self._known = Root(self.root, settings.state_dir)
        self.period = NETWORK_PERIOD if self.shared else LOCAL_PERIOD

    def scan(self) -> Scan:
        found = scan(self.root)
        self._known.check(found)
        return found

    def evidence(self) -> Evidence:
        return VolumeEvidence(self.root)

    def watcher(self, on_hint: Callable[[], None]) -> Watcher | None:
        """On a network's file system too: it hears what this machine writes, such as a `kubectl cp` into this pod."""
        return None if self._deaf else Watcher(self.root, on_hint)

    def open(self, directory: Directory) -> Directory:
        return directory

    def shut(self, directory: Directory) -> None:
        return
