"""Reading what somebody else wrote, safely.

Nothing is read before the kernel has said that the open file is a regular one and lies below the root: a FIFO
never blocks, a device is never read, and no link that is exchanged between a check and its use leads outside.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from gateway.volume.reasons import Unfit, unfit

CONFIG_CAP: Final = 16 * 1024**2  # bytes; the largest real one is a shard index, of about 200 kB
TOKENIZER_CAP: Final = 64 * 1024**2  # bytes; the largest real one has 33 MB
MOST_VALUES: Final = 300_000  # of a document that is built whole, which holds the interpreter's lock: some 0.1 s
FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # NONBLOCK: open(2) of a FIFO waits for ever
ATOMIC: Final = "..data"  # Kubernetes exchanges this link for a new one, and so all files of a ConfigMap at once
PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # of a relative path that a model's files may name


@contextmanager
def open_regular(path: str, root: str, name: str | None = None) -> Iterator[int]:
    """A file descriptor of the regular file `path`, which lies below `root` after all links were followed.

    `name` is what messages call the file. Raises Unfit (file_missing, link_broken, not_a_file, outside_volume,
    file_unreadable, read_failed); the operating system's errors inside the block become read_failed too.
    """
    name = shown_name(name if name is not None else os.path.relpath(path, root))
    try:
        descriptor = os.open(path, FLAGS)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _refusal(path, name, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise unfit("not_a_file", f"{name} is not a regular file", name)
        if not _below(where(descriptor, path), os.path.realpath(root)):
            raise unfit("outside_volume", f"{name} is a link to something outside the volume", name)
        yield descriptor
    except OSError as error:
        raise unfit("read_failed", f"{name} cannot be read: {error.strerror}", name) from error
    finally:
        os.close(descriptor)


def where(descriptor: int, path: str) -> str:
    """The real path of an open file, which may have been reached through links as `path`."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # of what is open, whatever the path means by now
    except FileNotFoundError:  # no procfs: not Linux
        return os.path.realpath(path)


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _refusal(path: str, name: str, error: OSError | ValueError) -> Unfit:
    number = error.errno if isinstance(error, OSError) else errno.EINVAL
    if number in (errno.ENOENT, errno.ENOTDIR):
        if os.path.islink(path):
            return unfit("link_broken", f"{name} is a link to a file that is not there", name)
        return unfit("file_missing", f"{name} is missing", name)
    if number in (errno.EACCES, errno.EPERM):
        return unfit("file_unreadable", f"{name} cannot be read: {_ownership(path)}", name)
    if number in (errno.ENXIO, errno.ENODEV):  # what open(2) says of sockets and of devices without a driver
        return unfit("not_a_file", f"{name} is not a regular file", name)
    if number == errno.ELOOP:
        return unfit("outside_volume", f"{name} is a link that leads back to itself", name)
    return unfit("read_failed", f"{name} cannot be opened: {os.strerror(number or errno.EINVAL)}", name)


def _ownership(path: str) -> str:
    ours = f"this process has uid {os.geteuid()}"
    try:
        found = os.stat(path)
    except OSError:
        return f"a folder above it is closed to us; {ours}"
    return f"its mode is {stat.S_IMODE(found.st_mode):04o} and its owner uid {found.st_uid}; {ours}"


def read_capped(path: str, root: str, cap: int, name: str | None = None) -> bytes:
    """The whole file, which has at most `cap` bytes. Raises Unfit, also file_too_large before a byte is read."""
    name = shown_name(name if name is not None else os.path.relpath(path, root))
    with open_regular(path, root, name) as descriptor:
        size = os.fstat(descriptor).st_size
        content = b"" if size > cap else read_up_to(descriptor, cap + 1)
    if size > cap or len(content) > cap:
        message = f"{name} has {max(size, len(content)):,} bytes, and at most {cap:,} are read"
        raise unfit("file_too_large", message, name)
    return content


def read_up_to(descriptor: int, count: int) -> bytes:
    """So many bytes from where it is, or as many as there are."""
    blocks = []
    while count > 0 and (block := os.read(descriptor, min(count, 1024**2))):
        blocks.append(block)
        count -= len(block)
    return b"".join(blocks)


def read_json(path: str, root: str, cap: int = CONFIG_CAP, name: str | None = None) -> Any:
    """The document in the file. Raises Unfit, with json_invalid for whatever a parser can stumble over."""
    name = shown_name(name if name is not None else os.path.relpath(path, root))
    content = read_capped(path, root, cap, name)
    check_values(content, MOST_VALUES, name)
    with parsing(name, len(content)):
        return json.loads(content.decode("utf-8"))


def check_values(content: bytes, most: int, name: str) -> None:
    """Raises Unfit (file_too_large) where so many values may not be built: each has a comma before the next one."""
    if content.count(b",") >= most:
        raise unfit("file_too_large", f"{name} has more than {most:,} values in one place", name)


@contextmanager
def parsing(name: str, size: int) -> Iterator[None]:
    """What a parser of JSON raises inside becomes Unfit (json_invalid)."""
    try:
        yield
    except RecursionError as error:
        raise unfit("json_invalid", f"{name} is nested too deeply", name) from error
    except ValueError as error:  # syntax, an integer of thousands of digits, bytes that are not UTF-8
        raise unfit("json_invalid", f"{name} does not parse as JSON ({size:,} bytes)", name) from error


def has_hole(file: int | str) -> bool:
    """Whether some of the file's bytes were never written: a preallocating writer may be at work.

    Raises OSError when a path cannot be opened.
    """
    if isinstance(file, str):
        descriptor = os.open(file, FLAGS)
        try:
            return has_hole(descriptor)
        finally:
            os.close(descriptor)
    size = os.fstat(file).st_size
    if size == 0:
        return False
    position = os.lseek(file, 0, os.SEEK_CUR)
    try:
        return os.lseek(file, 0, os.SEEK_HOLE) < size
    except OSError:  # a file system that does not know
        return False
    finally:
        os.lseek(file, position, os.SEEK_SET)


def shown_name(name: str) -> str:
    """A name that can stand in a log line, whatever bytes it is made of."""
    return name if name.isascii() and name.isprintable() else ascii(name)


def is_atomic(path: str) -> bool:
    """Whether a folder of a model is a link as Kubernetes makes it for a ConfigMap: `1_Pooling -> ..data/1_Pooling`.

    It is the one link to a folder that is followed: it leads to a real folder in the model's own directory, so never
    out of it nor in circles, and what lies there is part of the fingerprint.
    """
    base, name = os.path.split(path)
    try:
        if os.readlink(path) != f"{ATOMIC}/{name}":
            return False
        version = os.readlink(os.path.join(base, ATOMIC))
        held = os.path.join(base, version)
        real = stat.S_ISDIR(os.lstat(held).st_mode) and stat.S_ISDIR(os.lstat(os.path.join(held, name)).st_mode)
    except (OSError, ValueError):  # no link, or one that leads nowhere
        return False
    return real and version.startswith("..") and version != ".." and "/" not in version


def safe_relative(path: str) -> str | None:
    """The canonical spelling of a relative path that a model's own files name, or None when it is none."""
    parts = [part for part in path.split("/") if part != "."]
    if parts and parts[-1] == "":
        parts.pop()  # a slash at the end
    if path.startswith("/") or not all(PART.fullmatch(part) for part in parts):
        return None
    return "/".join(parts)


@dataclass(frozen=True, slots=True)
class Folder:
    """A model directory. Names are relative to it; links may lead anywhere below `root`."""

    directory: str
    root: str

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def has(self, name: str) -> bool:
        """Whether there is such an entry, of whatever type and however broken. One that is hidden from us counts."""
        try:
            os.lstat(self.path(name))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return False
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EPERM)  # opening it will say so, with the remedy
        return True

    def entries(self, name: str = "") -> list[str]:
        """The names directly in the folder `name`, sorted. Raises Unfit."""
        try:
            return sorted(os.listdir(self.path(name)))
        except (OSError, ValueError) as error:
            raise _refusal(self.path(name), shown_name(name or "the model directory"), error) from error

    def open(self, name: str) -> AbstractContextManager[int]:
        """The descriptor of a file, as `open_regular` gives it."""
        return open_regular(self._own(name), self.root, name)

    def read(self, name: str, cap: int = CONFIG_CAP) -> bytes:
        return read_capped(self._own(name), self.root, cap, name)

    def json(self, name: str, cap: int = CONFIG_CAP) -> Any:
        return read_json(self._own(name), self.root, cap, name)

    def _own(self, name: str) -> str:
        """The path of a file in this directory's own folders. What lies behind a link to a folder changes without
        changing this directory's fingerprint."""
        folder = os.path.dirname(name)
        while folder:
            if os.path.islink(self.path(folder)) and ("/" in folder or not is_atomic(self.path(folder))):
                raise unfit("folder_link", f"{shown_name(folder)} is a link to a folder", shown_name(folder))
            folder = os.path.dirname(folder)
        return self.path(name)
