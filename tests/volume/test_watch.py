"""watchdog's hints: real file systems and real deaths of its threads."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from watchdog.events import FileAttribEvent
from watchdog.utils import BaseThread

from gateway.volume import watch
from gateway.volume.source import scan
from gateway.volume.watch import Watcher
from tests.volume.test_source import drop, exchange

PATIENCE = 300.0  # seconds before a test that waits for an event gives up; never what decides it


class Hints:
    """Counts the hints, and lets a test wait for one."""

    def __init__(self) -> None:
        self.count = 0
        self.arrived = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.count += 1
        self.arrived.set()
        if self.error:
            raise self.error

    def wait(self, watcher: Watcher) -> bool:
        """Whether a hint comes; then everything is ready for the next."""
        came = self.arrived.wait(PATIENCE)
        self.arrived.clear()
        return watcher.take() and came


def watchdogs() -> int:
    """How many threads watchdog has."""
    return sum(isinstance(each, BaseThread) or each.name == watch.ENDING for each in threading.enumerate())


def until_there_are(count: int) -> None:
    """And no more. A busy machine may take longer to end them than anybody waits: those of an earlier test may be among
    the `count`."""
    deadline = time.monotonic() + PATIENCE
    while watchdogs() > count:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


@pytest.fixture
def hints() -> Hints:
    return Hints()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return drop(tmp_path / "root/finetuned/m").parents[1]


@pytest.fixture
def watcher(root: Path, hints: Hints) -> Iterator[Watcher]:
    watcher = Watcher(str(root), hints)
    watcher.start()
    assert watcher.check() is None
    yield watcher
    watcher.stop()
    assert watcher.check() == "stopped"


def threads(watcher: Watcher) -> dict[str, Any]:
    observer = watcher._observer
    assert observer is not None
    (emitter,) = observer.emitters
    return {"dispatcher": observer, "emitter": emitter, "inotify reader": watch._reader(observer)}


def heard(watcher: Watcher, root: Path, action: Callable[[], object] = lambda: None) -> list[str]:
    """The paths of all events that `action` causes: a mark that is set after it has come through when this returns, or
    one of watchdog's threads is dead."""
    paths: list[str] = []
    handled = threading.Event()
    inner = watcher._hint.dispatch
    mark = root / f"{os.urandom(4).hex()}.mark"

    def dispatch(event: Any) -> None:
        inner(event)
        path = os.fsdecode(event.src_path)
        if path == str(mark) and isinstance(event, FileAttribEvent):  # the last of its events
            handled.set()
        elif not path.endswith(".mark") and path != str(root):
            paths.append(path)

    watcher._hint.dispatch = dispatch  # type: ignore[method-assign] # a tap on the real handler
    action()
    mark.touch()
    mark.chmod(0o600)
    deadline = time.monotonic() + PATIENCE
    while not handled.wait(0.05) and not watcher.dead:
        assert time.monotonic() < deadline
    watcher._hint.dispatch = inner  # type: ignore[method-assign] # as above
    return paths


def quiet(watcher: Watcher, hints: Hints, root: Path) -> None:
    """Until everything that happened before has been told."""
    heard(watcher, root)
    watcher.take()
    hints.arrived.clear()


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "finetuned/m/config.json").write_text("new"),
        lambda root: (root / "finetuned/m/config.json").unlink(),
        lambda root: (root / "finetuned/m/config.json").chmod(0o600),
        lambda root: (root / "finetuned/m/config.json").rename(root / "finetuned/m/other.json"),
        lambda root: (root / "finetuned/m").rename(root / "finetuned/n"),
        lambda root: shutil.rmtree(root / "finetuned/m"),
        lambda root: drop(root / "other/deep/er"),
        lambda root: os.makedirs(os.fsencode(root) + b"/finetuned/\xff\xfe"),
    ],
    ids=["write", "unlink", "chmod", "rename", "rename_directory", "rmtree", "new_namespace", "not_utf8"],
)
def test_every_kind_of_change_gives_a_hint(root: Path, hints: Hints, watcher: Watcher, change: Any) -> None:
    change(root)
    assert hints.wait(watcher)
    assert watcher.check() is None


def test_many_events_give_one_hint_until_it_is_taken(root: Path, hints: Hints, watcher: Watcher) -> None:
    def write_many() -> None:
        for n in range(200):
            (root / f"finetuned/m/{n}").write_text("x")

    assert len(heard(watcher, root, write_many)) > 200
    assert hints.count == 1
    assert watcher.take()
    assert not watcher.take()
    heard(watcher, root, write_many)
    assert hints.count == 2


def test_our_own_reads_cause_no_hint(root: Path, hints: Hints, watcher: Watcher) -> None:
    def read_all() -> None:
        for directory in scan(str(root)).directories.values():
            for file in directory.files:
                Path(directory.path, file.path).read_bytes()

    quiet(watcher, hints, root)
    assert heard(watcher, root, read_all) == []
    assert heard(watcher, root, lambda: (root / "finetuned/m/config.json").write_text("new")) != []


def test_the_bytes_of_a_pull_give_no_hint_and_its_publishing_does(root: Path, hints: Hints, watcher: Watcher) -> None:
    staged = drop(root / ".pulls/acme--m/c0ffee")
    quiet(watcher, hints, root)
    hinted: list[bool] = []
    inner = watcher._hint.dispatch

    def dispatch(event: Any) -> None:
        before = hints.count
        inner(event)
        if "/.pulls/" in os.fsdecode(event.src_path) and not event.dest_path:
            hinted.append(hints.count > before)

    watcher._hint.dispatch = dispatch  # type: ignore[method-assign] # a tap on the real handler
    heard(watcher, root, lambda: (staged / "model.safetensors").write_bytes(bytes(2**20)))
    assert hinted
    assert not any(hinted)
    watcher._hint.dispatch = inner  # type: ignore[method-assign] # as above
    quiet(watcher, hints, root)
    staged.rename(root / "finetuned/pulled")
    assert hints.wait(watcher)


def test_a_hint_that_can_not_be_delivered_ends_nothing(root: Path, hints: Hints, watcher: Watcher) -> None:
    hints.error = RuntimeError("Event loop is closed")
    (root / "a").write_text("x")
    assert hints.wait(watcher)
    hints.error = None
    (root / "b").write_text("x")
    assert hints.wait(watcher)
    assert watcher.check() is None


@pytest.mark.parametrize("name", ["dispatcher", "emitter", "inotify reader"])
def test_the_death_of_each_thread_is_noticed_and_healed(root: Path, hints: Hints, watcher: Watcher, name: str) -> None:
    quiet(watcher, hints, root)
    before = watchdogs()
    thread = threads(watcher)[name]
    thread.stop()  # as an exception inside it would: it ends, and nothing else is told
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert watcher.check() == f"watchdog's {name} has died"
    watcher.rebuild()
    assert watcher.check() is None
    until_there_are(before)
    drop(root / "finetuned/n")
    assert hints.wait(watcher)


def test_a_reader_that_dies_of_an_exception_is_noticed_and_healed(
    root: Path, hints: Hints, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = threads(watcher)["inotify reader"]
    monkeypatch.setattr(threading, "excepthook", lambda args: None)

    def broken(event: Any) -> None:
        raise KeyError(event)

    reader.handle_event = broken
    (root / "x").write_text("x")
    reader.join(PATIENCE)
    assert watcher.check() == "watchdog's inotify reader has died"
    watcher.rebuild()
    assert watcher.check() is None
    drop(root / "finetuned/n")
    assert hints.wait(watcher)


def test_an_exchange_by_rename_leaves_us_hearing_or_knowing_that_we_are_deaf(
    root: Path, hints: Hints, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish() -> None:
        exchange(root / "finetuned/m", root / "finetuned/.new")
        shutil.rmtree(root / "finetuned/.new")

    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(watch, "NOTICED_SECONDS", -1.0)  # what was heard has its watch
    drop(root / "finetuned/.new")
    quiet(watcher, hints, root)
    reader = threads(watcher)["inotify reader"]
    heard(watcher, root, publish)  # whether it dies is watchdog's affair; both ways must end well
    problem = watcher.check()
    assert problem is not None or reader.is_alive()
    if problem is not None:
        watcher.rebuild()
    assert watcher.check() is None
    watcher.take()
    hints.arrived.clear()
    drop(root / "finetuned/n")
    assert hints.wait(watcher)


def test_a_root_that_was_made_anew_is_noticed_and_watched(root: Path, hints: Hints, watcher: Watcher) -> None:
    root.rename(root.parent / "old")
    problem = watcher.check()
    assert problem is not None
    assert "No such file" in problem
    drop(root / "finetuned/m")
    assert watcher.check() == "the models directory is another one than at the start"
    watcher.rebuild()
    assert watcher.check() is None
    watcher.take()
    hints.arrived.clear()
    (root / "finetuned/m/new").write_text("x")
    assert hints.wait(watcher)


def test_a_root_that_appears_later_is_picked_up(tmp_path: Path, hints: Hints) -> None:
    watcher = Watcher(str(tmp_path / "later"), hints)
    watcher.start()
    problem = watcher.check()
    assert problem is not None
    assert "No such file" in problem
    (tmp_path / "later").mkdir()
    assert watcher.check() is not None
    watcher.rebuild()
    assert watcher.check() is None
    (tmp_path / "later/finetuned").mkdir()
    assert hints.wait(watcher)
    watcher.stop()


def test_a_root_that_is_a_link_is_watched_through_it(root: Path, hints: Hints, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    watcher = Watcher(str(tmp_path / "link"), hints)
    watcher.start()
    assert watcher.check() is None
    (root / "finetuned/m/new").write_text("x")
    assert hints.wait(watcher)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(drop(tmp_path / "other/finetuned/m").parents[1])
    assert watcher.check() == "the models directory is another one than at the start"
    watcher.stop()


def test_a_kernel_that_has_no_watches_left_is_told_and_not_raised(
    root: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted(watch.Observer):  # type: ignore[misc,valid-type] # watchdog chooses the class by platform
        def start(self) -> None:
            raise OSError(errno.ENOSPC, "inotify watch limit reached")

    before = watchdogs()
    monkeypatch.setattr(watch, "Observer", Exhausted)
    watcher = Watcher(str(root), hints)
    watcher.start()
    problem = watcher.check()
    assert problem is not None
    assert "inotify watch limit reached" in problem
    until_there_are(before)
    monkeypatch.undo()
    watcher.rebuild()
    assert watcher.check() is None
    watcher.stop()
    until_there_are(before)


def test_a_watcher_that_is_stopped_while_it_starts_leaves_no_thread(
    root: Path, hints: Hints, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()

    class Slow(watch.Observer):  # type: ignore[misc,valid-type] # watchdog chooses the class by platform
        def start(self) -> None:
            begun.set()
            gate.wait(PATIENCE)
            super().start()

    before = watchdogs()
    monkeypatch.setattr(watch, "Observer", Slow)
    watcher = Watcher(str(root), hints)
    starting = threading.Thread(target=watcher.start)
    starting.start()
    assert begun.wait(PATIENCE)
    watcher.stop()
    gate.set()
    starting.join(PATIENCE)
    assert watcher.check() == "stopped"
    until_there_are(before)
