"""Where a pull puts what has come so far, and how it publishes the whole: one rename, or one exchange of two names.

    <root>/.pulls/<org>--<name>/lock        held by the one process that pulls the model
    <root>/.pulls/<org>--<name>/<commit>/   its files; `*.incomplete` is one that has not all come

A process that is killed leaves this behind, and the next one goes on from it. Nothing half-made has a model's name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from gateway.errors import PullConflict, PullInProgress, VolumeFull, VolumeUnwritable
from gateway.model import ModelId
from gateway.volume.directory import PULLS

RECORD: Final = ".pull.json"
FORGOTTEN: Final = 7 * 86400.0  # seconds after which nobody comes back for what a pull left
FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
OCCUPIED: Final = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}
AT_FDCWD: Final = -100  # linux/fcntl.h
RENAME_EXCHANGE: Final = 2  # linux/fs.h
UNSUPPORTED: Final = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


class PulledFile(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: str


class Record(msgspec.Struct, frozen=True):
    """`.pull.json` in a directory that was pulled: where it comes from, and what it then held."""

    model: str
    revision: str
    commit: str
    endpoint: str
    pulled_at: float
    files: tuple[PulledFile, ...]


class Place:
    """The place of one model below `root`, and its staging."""

    def __init__(self, root: str, model: ModelId) -> None:
        self.target = os.path.join(root, model.path)
        self._all = os.path.join(root, PULLS)
        self._own = os.path.join(self._all, model.path.replace("/", "--"))

    def record(self) -> Record | None:
        """What was pulled to here before; None when there is nothing, or something else."""
        try:
            with open(os.path.join(self.target, RECORD), "rb") as stream:
                return msgspec.json.decode(stream.read(), type=Record)
        except (OSError, ValueError, RecursionError):
            return None

    def check_free(self) -> None:
        """Raises PullConflict when somebody else's directory is in the way."""
        if self.record() is None and os.path.lexists(self.target) and not _is_empty(self.target):
            raise PullConflict(
                f"{self.target} is there already and was not pulled; remove it first, or keep it", path=self.target
            )

    @contextmanager
    def staging(self, commit: str) -> Iterator[str]:
        """The folder for the files of this commit, for one process at a time. It stays until `discard`."""
        with _locked(self._own):
            self._put_back()
            stage = os.path.join(self._own, commit)
            for name in os.listdir(self._own):
                if name not in {"lock", commit}:  # of another commit
                    shutil.rmtree(os.path.join(self._own, name), ignore_errors=True)
            os.makedirs(stage, exist_ok=True)
            yield stage

    def _put_back(self) -> None:
        """What a process that was killed between two renames had taken the model's name from."""
        for name in os.listdir(self._own):
            stage, aside = os.path.join(self._own, name), _aside(os.path.join(self._own, name))
            if os.path.isdir(stage) and os.path.isdir(aside) and not os.path.lexists(self.target):
                os.rename(aside, self.target)

    def publish(self, stage: str) -> None:
        """Gives the folder the model's name. Raises PullConflict when another has it."""
        _sync_tree(stage)
        os.makedirs(os.path.dirname(self.target), exist_ok=True)
        try:
            os.rename(stage, self.target)
        except OSError as error:
            if error.errno not in OCCUPIED:
                raise
            self.check_free()
            _exchange(stage, self.target)  # what was there is in the staging now, and goes with it
        _sync(os.path.dirname(self.target))

    def discard(self) -> None:
        """Frees what was staged. While it is locked, or when nobody pulls."""
        shutil.rmtree(self._own, ignore_errors=True)
        with suppress(OSError):  # others are being pulled
            os.rmdir(self._all)

    def sweep(self) -> None:
        """Frees what pulls of other models left long ago."""
        for entry in os.scandir(self._all):
            lock = os.path.join(entry.path, "lock")
            with suppress(OSError, PullInProgress):
                if entry.path != self._own and time.time() - os.stat(lock).st_mtime > FORGOTTEN:
                    with _locked(entry.path):
                        shutil.rmtree(entry.path, ignore_errors=True)


@contextmanager
def writing(path: str) -> Iterator[None]:
    """What the volume refuses becomes VolumeFull or VolumeUnwritable."""
    try:
        yield
    except OSError as error:
        where = os.fsdecode(error.filename or path)
        if error.errno in FULL:
            raise VolumeFull(
                f"{where}: {error.strerror}; free space on the volume and pull again", path=where
            ) from error
        raise VolumeUnwritable(f"{where}: {error.strerror or error}", path=where) from error


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Raises PullInProgress when another process holds the folder."""
    descriptor = None
    while descriptor is None:
        descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: str) -> int | None:
    """The descriptor of the folder's lock; None when the folder was discarded meanwhile."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(descriptor, path):
            os.utime(path)
            return os.dup(descriptor)
    except BlockingIOError as error:
        name = os.path.basename(folder).replace("--", "/")
        raise PullInProgress(f"another process is pulling {name}", path=folder) from error
    finally:
        os.close(descriptor)
    return None


def _is(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _is_empty(path: str) -> bool:
    try:
        return not os.listdir(path)
    except OSError:
        return False


def _exchange(one: str, other: str) -> None:
    """Swaps two names in one step; in three where the file system cannot, which settling bridges."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    number = errno.ENOSYS
    if renameat2 is not None:
        renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
    if number not in UNSUPPORTED:
        raise OSError(number, os.strerror(number), other)
    aside = _aside(one)
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except BaseException:
        os.rename(aside, other)
        raise
    os.rename(aside, one)


def _aside(stage: str) -> str:
    """Where what it replaces lies between the first two renames."""
    return stage + ".old"


def _sync_tree(folder: str) -> None:
    """Every folder on disk, the innermost first; files are when they get their names."""
    for path, _, _ in os.walk(folder, topdown=False):
        _sync(path)


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system whose folders need none
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
