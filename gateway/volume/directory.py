"""One model directory as it lies on the volume: names and stats, no content.

The fingerprint changes whenever anything that could matter changes: a file's place, inode, size, times or mode, the
target of a link, a folder, the directory itself. It says nothing about whether the directory is whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.model import ModelId, Place, Reason
from gateway.volume import reasons
from gateway.volume.files import is_atomic

MAX_LEVELS: Final = 8
MAX_ENTRIES: Final = 2000
NOT_MODEL_NAMES: Final = frozenset({"checkpoints", "eval", "logs", "lost+found"})
CHECKPOINT: Final = "checkpoint-"
PULLS: Final = ".pulls"  # where pulls are staged, directly under the root
DOWNLOAD_FOLDERS: Final = frozenset({".cache", ".huggingface"})  # where `hf download --local-dir` keeps its parts
IN_PROGRESS: Final = re.compile(
    r"\..*\.[A-Za-z0-9]{6}"  # rsync
    r"|\.~tmp~"  # rsync --delay-updates
    r"|\.tmp.*"  # safetensors and transformers, while they save
    r"|.*\.(?:partial|part|tmp|incomplete|crdownload|aria2|filepart)",
    re.DOTALL,
)
GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class FileStat(msgspec.Struct, frozen=True, gc=False):
    """A file of a model. `path` is relative to the model, with surrogates for bytes that are not UTF-8.

    For a link to a regular file inside the volume the numbers are the target's, and `link` holds the link's own
    (inode, ctime_ns); for any other link they are the link's.
    """

    path: str
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    link: tuple[int, int] | None = None

    @property
    def is_link(self) -> bool:
        return self.link is not None

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """A model directory at one moment.

    `path` is the real directory to read from and `files` are in sorted order. `newest_ctime_ns` is over files and
    folders, not over the model directory itself, whose own ctime moves when it is renamed into place; `mtime_ns`
    is the directory's own. `in_progress` is a name that only a copy under way has; `error` says why the directory
    can not be read at all; `apart` are its sub-directories that are models of their own.

    `nested` is a model of the same name inside it, which a second identical `kubectl cp` makes. The files and the
    fingerprint here cover it too; which of the two is meant, judging them says (`Store.choose`). `warning` is what the
    owner of a directory that is served should know.
    """

    model: ModelId
    path: str
    inode: int
    device: int
    files: tuple[FileStat, ...]
    fingerprint: str
    newest_ctime_ns: int
    mtime_ns: int
    in_progress: str | None = None
    error: Reason | None = None
    apart: frozenset[str] = frozenset()
    nested: Directory | None = None
    warning: Reason | None = None

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files if file.is_regular)

    def file(self, path: str) -> FileStat | None:
        return next((file for file in self.files if file.path == path), None)


def read(
    model: ModelId, path: str, root: str, apart: frozenset[str] = frozenset(), in_progress: str | None = None
) -> Directory | None:
    """The directory at `path`, without the sub-directories named in `apart`; None when there is none.

    `path` and `root` are real paths. No file is opened. What the operating system refuses becomes `error`.
    """
    if IN_PROGRESS.fullmatch(model.name):  # somebody copies to m.tmp, and will rename it
        in_progress = model.name
    reading = _Reading(path, root, apart, in_progress=in_progress)
    try:
        own = os.stat(path)
        if not stat.S_ISDIR(own.st_mode):
            return None
        reading.folder("", 1, in_model=True)
    except OSError as error:
        if error.errno in GONE and not os.path.lexists(path):
            return None
        reading.error = unreadable(error, path)
        own = _stat_or_nothing(path)
    except _TooMuch as error:
        reading.error = error.reason
    files = tuple(sorted(reading.files, key=lambda file: file.path))
    return Directory(
        model=model,
        path=path,
        inode=own.st_ino,
        device=own.st_dev,
        files=files,
        fingerprint=_fingerprint(own, files, reading),
        newest_ctime_ns=reading.newest_ctime_ns,
        mtime_ns=own.st_mtime_ns,
        in_progress=reading.in_progress,
        error=reading.error,
        apart=apart,
    )


def look(directory: Directory, root: str) -> Directory | None:
    """The same directory now. None when it has gone."""
    return read(directory.model, directory.path, os.path.realpath(root), directory.apart)


def unchanged(path: str, place: Place) -> bool:
    """Whether a directory that is served in place has the content that it was accepted with."""
    found = read(ModelId(None, place.name), path, place.root, frozenset(place.apart))
    return found is not None and found.fingerprint == place.fingerprint


def refused(model: ModelId, path: str, own: os.stat_result, error: Reason) -> Directory:
    """A directory that is seen and that may not be looked into."""
    return Directory(
        model=model,
        path=path,
        inode=own.st_ino,
        device=own.st_dev,
        files=(),
        fingerprint=_digest(f"{own.st_ino} {own.st_mode} {own.st_ctime_ns} {error.code} {error.message}"),
        newest_ctime_ns=own.st_ctime_ns,
        mtime_ns=own.st_mtime_ns,
        error=error,
    )


def is_apart(name: str) -> bool:
    """Whether a name is neither a model nor a part of one: staging, checkpoints, what a training run leaves."""
    return name.startswith((".", CHECKPOINT)) or name in NOT_MODEL_NAMES


def unreadable(error: OSError, base: str) -> Reason:
    """What the operating system refused, below `base`, and what heals it."""
    path = os.fsdecode(error.filename) if error.filename else base
    name = os.path.relpath(path, base) if path != base else os.path.basename(base)
    shown = ascii(name)[1:-1]
    what = f"{shown}: {error.strerror or error}"
    if error.errno not in {errno.EACCES, errno.EPERM}:
        return reasons.reason("read_failed", what, shown)
    what += f"; it belongs to uid {_stat_or_nothing(path).st_uid} and this gateway runs as uid {os.geteuid()}"
    return reasons.reason("folder_unreadable", what, shown)


class _TooMuch(Exception):
    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


@dataclass(slots=True)
class _Reading:
    """One pass over one model directory."""

    base: str
    root: str
    apart: frozenset[str]
    files: list[FileStat] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    entries: int = 0
    newest_ctime_ns: int = 0
    in_progress: str | None = None
    error: Reason | None = None

    def folder(self, prefix: str, level: int, *, in_model: bool) -> None:
        """Files below `prefix`. With `in_model` False only names of copies in progress are looked for."""
        if level > MAX_LEVELS:
            raise _TooMuch(reasons.reason("too_deep", f"folders are nested over {MAX_LEVELS} levels deep"))
        with os.scandir(os.path.join(self.base, prefix)) as found:
            for entry in found:
                self._count()
                self._entry(entry, prefix, level, in_model=in_model)

    def _count(self) -> None:
        self.entries += 1
        if self.entries > MAX_ENTRIES:
            raise _TooMuch(reasons.reason("too_many_files", f"the directory has over {MAX_ENTRIES} entries"))

    def _entry(self, entry: os.DirEntry[str], prefix: str, level: int, *, in_model: bool) -> None:
        name = entry.name
        if self.in_progress is None and IN_PROGRESS.fullmatch(name):
            self.in_progress = prefix + name
        apart = is_apart(name) or not in_model or (not prefix and name in self.apart)
        linked = entry.is_symlink() and not apart and not prefix and is_atomic(entry.path)
        if not entry.is_dir(follow_symlinks=False) and not linked:
            if not apart:
                self._file(entry, prefix + name)
        elif not apart:
            self._folder(entry, prefix + name, level)
        elif name in DOWNLOAD_FOLDERS or not in_model:
            self.folder(f"{prefix}{name}/", level + 1, in_model=False)

    def _folder(self, entry: os.DirEntry[str], path: str, level: int) -> None:
        try:
            own = entry.stat()
            self.newest_ctime_ns = max(self.newest_ctime_ns, own.st_ctime_ns)
            self.folders.append(f"{path}/ {own.st_ino} {own.st_mode}")
            self.folder(path + "/", level + 1, in_model=True)
        except OSError as error:
            if error.errno in GONE:  # removed while we look: the next look tells
                return
            raise

    def _file(self, entry: os.DirEntry[str], path: str) -> None:
        try:
            own = entry.stat(follow_symlinks=False)
        except OSError as error:
            if error.errno in GONE:
                return
            raise
        link = None
        if stat.S_ISLNK(own.st_mode):
            link = (own.st_ino, own.st_ctime_ns)
            self.newest_ctime_ns = max(self.newest_ctime_ns, own.st_ctime_ns)
            own = _target(entry.path, self.root) or own
        self.newest_ctime_ns = max(self.newest_ctime_ns, own.st_ctime_ns)
        self.files.append(FileStat(path, own.st_ino, own.st_size, own.st_mtime_ns, own.st_ctime_ns, own.st_mode, link))


def _target(link: str, root: str) -> os.stat_result | None:
    """The stat of the regular file that a link leads to, when that lies inside the volume."""
    try:
        # a lexical test first: it is ten times cheaper than realpath, and opening a file is checked for itself
        nearby = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
        if not inside(nearby, root) and not inside(os.path.realpath(link), root):
            return None
        found = os.stat(link)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def inside(path: str, root: str) -> bool:
    """Whether a real path lies below a real root."""
    return path.startswith(root.rstrip("/") + "/")


def _fingerprint(own: os.stat_result, files: tuple[FileStat, ...], reading: _Reading) -> str:
    def lines() -> Iterator[str]:
        # not st_dev: a volume that is mounted again may get another number, and its models have not changed
        yield f"{own.st_ino} {own.st_mode} {reading.error.message if reading.error else ''}"
        yield from sorted(reading.folders)
        for f in files:
            yield f"{f.path}\0{f.inode} {f.size} {f.mtime_ns} {f.ctime_ns} {f.mode} {f.link}"

    return _digest("\n".join(lines()))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _stat_or_nothing(path: str) -> os.stat_result:
    try:
        return os.lstat(path)
    except OSError:
        return os.stat_result((0, 0, 0, 0, -1, -1, 0, 0, 0, 0))
