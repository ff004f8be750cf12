"""Who may be writing to the volume at this moment, as far as /proc shows it: `kubectl cp` and `kubectl exec` run tar
in our own PID namespace, and are seen even while they stall between two files.

Only what a writer has counts: a file open for writing, a directory held open (GNU tar holds its destination for its
whole life), or a working directory in a process that is being fed (busybox tar). Readers and shells do not.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.volume.directory import Directory, inside

PROC: Final = "/proc"
SHELLS: Final = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "fish"})  # their children write, not they
CLOCK_SLACK: Final = 0.02  # seconds; start times have 10 ms, ctimes the timer tick of the kernel
WRITABLE: Final = stat.S_IWUSR  # in the mode of the link /proc/<pid>/fd/<n>: opened for writing


@dataclass(frozen=True, slots=True)
class Writer:
    """A process and the one thing below the root that makes it a writer. `started` in wall-clock seconds.

    `precise`: it writes or is being fed, so that its departure means that the writing is over. A process that
    merely holds a directory open (du, find, another gateway's scan) is not.
    """

    pid: int
    name: str
    path: str
    held: Literal["file", "directory", "cwd"]
    precise: bool
    started: float

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.name})"


def find(root: str) -> list[Writer]:
    """Every process that may be writing at or below `root`; ourselves and what we may not look at left out."""
    real = os.path.realpath(root)
    try:
        pids = [int(name) for name in os.listdir(PROC) if name.isdigit()]
    except OSError:  # no procfs: nobody is seen
        return []
    return [writer for pid in pids if pid != os.getpid() for writer in _of(pid, real)]


def writing(directory: Directory, found: Sequence[Writer], changed: float) -> Writer | None:
    """Who may be writing to this directory. `changed` is when it last changed, in wall-clock seconds.

    What a process holds above the directory tells only that it writes somewhere near: it counts if something in
    the directory changed since the process started, and if it is not seen to write elsewhere.
    """
    busy = {writer.pid for writer in found if writer.held == "file"}
    for writer in found:
        if writer.path == directory.path or inside(writer.path, directory.path):
            return writer
        near = inside(directory.path, writer.path) and writer.held != "file" and writer.pid not in busy
        if near and changed >= writer.started - CLOCK_SLACK:
            return writer
    return None


def _of(pid: int, root: str) -> list[Writer]:
    base = f"{PROC}/{pid}"
    try:
        held = list(_held(base, root))
        if not held:
            return []
        name, started = _name(base), _started(base)
    except (OSError, ValueError, IndexError):  # it has ended, or it is another user's
        return []
    fed = _is_fed(base)
    return [
        Writer(pid, name, path, how, how == "file" or fed, started)
        for path, how in held
        if how != "cwd" or (fed and name not in SHELLS)
    ]


def _held(base: str, root: str) -> Iterator[tuple[str, Literal["file", "directory", "cwd"]]]:
    cwd = os.readlink(f"{base}/cwd")
    if _at_or_below(cwd, root):
        yield cwd, "cwd"
    for fd in os.listdir(f"{base}/fd"):
        link = f"{base}/fd/{fd}"
        try:
            path = os.readlink(link)
            if not _at_or_below(path, root):
                continue
            if os.lstat(link).st_mode & WRITABLE:
                yield path, "file"
            elif stat.S_ISDIR(os.stat(link).st_mode):
                yield path, "directory"
        except OSError:  # closed while we look
            continue


def _at_or_below(path: str, root: str) -> bool:
    return path == root or inside(path, root)


def _is_fed(base: str) -> bool:
    """Whether something other than a terminal or /dev/null is its standard input: a pipe, a socket, a file."""
    try:
        mode = os.stat(f"{base}/fd/0").st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def _name(base: str) -> str:
    with open(f"{base}/comm", "rb") as stream:
        return ascii(stream.read().decode(errors="replace").strip())[1:-1]


def _started(base: str) -> float:
    """When the process started, on the wall clock. Field 22 of proc_pid_stat(5), in ticks since boot."""
    with open(f"{base}/stat", "rb") as stream:
        ticks = int(stream.read().rpartition(b")")[2].split()[19])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")
