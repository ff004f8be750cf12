"""watchdog's hints. A hint says "look again" and nothing more; a dead watcher costs latency, never correctness.

Events that our own reads cause are not asked for. The handler sets one pending flag, however many events come, and
nothing that it does can end watchdog's threads.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from watchdog.events import (
    DirAttribEvent,
    DirCreatedEvent,
    DirDeletedEvent,
    DirModifiedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, EventDispatcher

from gateway.lane import leave
from gateway.volume.directory import PULLS

EVENTS: Final[list[type[FileSystemEvent]]] = [  # not opened, not closed_no_write: a load would cause 38 of them
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileModifiedEvent,
    FileClosedEvent,
    FileAttribEvent,  # a chmod heals what could not be read
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    DirModifiedEvent,
    DirAttribEvent,
]
NOTICED_SECONDS: Final = 1.0  # a younger folder may not have its watch yet
JOIN_SECONDS: Final = 2.0  # for all of a watchdog's threads together, which are daemons
ENDING: Final = "watchdog's end"  # the name of the thread that waits for them


def _is_staged(event: FileSystemEvent) -> bool:
    """Whether it happened where pulls are staged: bytes that come for minutes, and are no model yet."""
    paths = (os.fsdecode(path) for path in (event.src_path, event.dest_path) if path)
    return all(f"/{PULLS}/" in path for path in paths)


class _Hint(FileSystemEventHandler):
    def __init__(self, on_hint: Callable[[], None]) -> None:
        self.pending = False
        self._on_hint = on_hint

    def dispatch(self, event: FileSystemEvent) -> None:
        if self.pending or _is_staged(event):
            return
        self.pending = True
        with suppress(Exception):  # the loop may be closed; an exception here would end watchdog's dispatcher
            self._on_hint()


class Watcher:
    """Calls `on_hint` (from a thread of watchdog's) after something changed below `root`: once, until `take`.

    `start`, `rebuild` and `check` are for one lane, the others for any thread."""

    def __init__(self, root: str, on_hint: Callable[[], None]) -> None:
        self._root = root
        self._hint = _Hint(on_hint)
        self._observer: BaseObserver | None = None
        self._identity: tuple[str, int, int] | None = None
        self._deaf: str | None = "not started"
        self._stopped = False

    def take(self) -> bool:
        """Whether a hint came since the last call. To be called before the scan, so that none is lost."""
        pending, self._hint.pending = self._hint.pending, False
        return pending

    def start(self) -> None:
        """Begins to watch. Never raises: `check` says what went wrong. Blocking: every folder below the root is
        walked, whatever it is, of a hundred models in a few ms."""
        observer: BaseObserver | None = None
        try:
            self._identity = _identity(self._root)
            # ordinary: a new folder was reported twice. Its names are raw, and under -W error it would kill the reader
            warnings.filterwarnings("ignore", message="Callback with id", category=RuntimeWarning)
            observer = Observer()
            # a link would be watched itself, and never say anything: watch what it leads to
            observer.schedule(self._hint, self._identity[0], recursive=True, event_filter=EVENTS)
            observer.start()
        except (OSError, RuntimeError) as error:  # ENOSPC: no watches left; EMFILE: no instances; no more threads
            self._deaf = f"watching {self._root} failed: {error}"
            if observer is not None:
                _discard(observer)
            return
        self._observer, self._deaf = observer, None
        if self._stopped:  # while it was starting
            self._drop()

    def stop(self) -> None:
        """Ends all of watchdog's threads, whatever state they are in; for good."""
        self._stopped = True
        self._drop()

    def rebuild(self) -> None:
        """A fresh observer on whatever the root is now."""
        self._drop()
        self.start()

    def _drop(self) -> None:
        observer, self._observer, self._deaf = self._observer, None, "stopped"
        if observer is not None:
            _discard(observer)

    @property
    def dead(self) -> bool:
        """Whether a thread of watchdog's has ended; costs nothing. Without an observer only time can help."""
        if (observer := self._observer) is None:
            return False
        parts = (observer, *observer.emitters, _reader(observer))
        return any(part is not None and not part.is_alive() for part in parts)

    def check(self) -> str | None:
        """Why changes would go unseen, or None."""
        if (observer := self._observer) is None:
            return self._deaf
        try:
            now = _identity(self._root)
        except OSError as error:
            return f"{self._root}: {error.strerror}"
        if now != self._identity:
            return "the models directory is another one than at the start"
        if not observer.is_alive():
            return "watchdog's dispatcher has died"
        if not observer.emitters or not all(emitter.is_alive() for emitter in observer.emitters):
            return "watchdog's emitter has died"
        reader = _reader(observer)
        if reader is not None and not reader.is_alive():
            return "watchdog's inotify reader has died"
        if (unheard := _unheard(observer, now[0])) is not None:
            return f"{ascii(unheard)[1:-1]} has no watch: it was exchanged, or fs.inotify.max_user_watches is reached"
        return None


def _identity(root: str) -> tuple[str, int, int]:
    real = os.path.realpath(root)
    found = os.stat(real)
    return real, found.st_dev, found.st_ino


def _reader(observer: BaseObserver) -> Any:
    """The thread that reads inotify. Its death (an exchange by rename causes it) shows nowhere else in watchdog 7."""
    return getattr(observer, "_inotify_fd", None)


def _unheard(observer: BaseObserver, root: str) -> str | None:
    """A namespace or a model that has no watch: at the kernel's limit watchdog leaves out the rest and says nothing,
    and it loses track of what was exchanged by a rename."""
    watched: set[bytes] = set()
    for emitter in observer.emitters:
        paths = getattr(getattr(emitter, "_inotify", None), "_active_callbacks_by_path", None)
        if paths is None:  # another watchdog, or another system
            return None
        watched |= {os.fsencode(path) for path in list(paths)}
    folders = _folders(root)
    inner = [below for folder in folders for below in _folders(folder)]
    return next((path for path in (*folders, *inner) if os.fsencode(path) not in watched), None)


def _folders(path: str) -> list[str]:
    """The folders in it that watchdog has had the time to hear of."""
    with suppress(OSError), os.scandir(path) as found:
        return [
            entry.path
            for entry in found
            if entry.is_dir(follow_symlinks=False) and abs(time.time() - entry.stat().st_ctime) > NOTICED_SECONDS
        ]
    return []


def _discard(observer: BaseObserver) -> None:
    """Ends every thread of it, and waits for them; one that hangs in the kernel is left behind, to end when it can.

    On a thread of its own: watchdog's `stop` waits for its emitters and its reader however long that takes, and while
    it did nobody would look at the volume.
    """
    leave(ENDING, _end, observer, patience=JOIN_SECONDS)


def _end(observer: BaseObserver) -> None:
    """Stops every thread by itself: after a crash inside watchdog its own stop() raises half-way."""
    parts = (observer, *observer.emitters, _reader(observer))
    queues: list[Any] = [
        getattr(getattr(emitter, "_inotify", None), "_move_event_grouper", None) for emitter in observer.emitters
    ]
    for part in parts:
        with suppress(Exception):  # whatever is broken in there, it is being thrown away
            part.stop()
    for queue in queues:
        with suppress(Exception):  # an emitter waits on it for ever when its own stop() broke off before closing it
            queue.close()
    with suppress(Exception):  # the dispatcher waits for this on its queue
        observer.event_queue.put_nowait(EventDispatcher.stop_event)
    for part in parts:
        with suppress(Exception):  # one that was never started can not be waited for
            part.join()
