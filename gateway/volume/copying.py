"""One file into the private store: hashed on its way, on disk when the call returns, and never half a file."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.model import Reason
from gateway.volume import reasons
from gateway.volume.files import open_regular

BLOCK: Final = 4 * 1024**2
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
WITHOUT_KERNEL_COPY: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class Refused(Exception):
    """The directory was not taken. Nothing of it is left behind."""

    def __init__(self, reasons: tuple[Reason, ...]) -> None:
        super().__init__("; ".join(reason.message for reason in reasons))
        self.reasons = reasons


class Changed(Exception):
    """The directory changed while it was copied. Start over when it has settled again."""


def copy(source: str, target: str, root: str, name: str, known: str | None) -> tuple[int, str]:
    """Copies one regular file below `root`; -> its size and SHA-256.

    With a `known` SHA-256 the kernel copies (a reflink where the file system can), and nothing is hashed again.
    Raises Unfit for what the source refuses and Refused for what the store does.
    """
    with open_regular(source, root, name) as reading, writing(target) as target_fd:
        if known is not None and (size := _kernel_copy(reading, target_fd)) is not None:
            return size, known
        return _hashing_copy(reading, target_fd)


@contextmanager
def writing(path: str) -> Iterator[int]:
    """A new file, synced and read-only at the end. The store's own errors come out as Refused."""
    with storing():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
        with storing():
            os.fchmod(descriptor, 0o444)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storing() -> Iterator[None]:
    """Translates what goes wrong while the store is written to."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise Refused((reasons.reason("disk_full", "the disk of the state directory became full"),)) from error
        message = f"the state directory cannot be written: {error.strerror}"
        raise Refused((reasons.reason("store_unwritable", message),)) from error


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Raises Refused."""
    view = memoryview(content)
    with storing():
        while view:
            view = view[os.write(descriptor, view) :]


def _hashing_copy(reading: int, target: int) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while block := os.read(reading, BLOCK):
        digest.update(block)
        write_all(target, block)
        size += len(block)
    return size, digest.hexdigest()


def _kernel_copy(reading: int, target: int) -> int | None:
    """Bytes copied; None, with nothing written, where the kernel can not copy between these two."""
    size = 0
    while True:
        try:
            count = os.copy_file_range(reading, target, 2**30)
        except OSError as error:
            if size == 0 and error.errno in WITHOUT_KERNEL_COPY:
                return None
            with storing():
                raise
        if count == 0:
            return size
        size += count
