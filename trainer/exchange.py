"""Putting a folder in the place of another in one step, so that no moment lacks both.

Linux can exchange two names (`renameat2`); where the file system cannot, two renames leave a gap of microseconds,
which the gateway bridges: an absence must last before it counts.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

AT_FDCWD: Final = -100  # linux/fcntl.h
RENAME_EXCHANGE: Final = 2  # linux/fs.h
OCCUPIED: Final = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}  # ENOTDIR: a link is in the place
UNSUPPORTED: Final = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def put_in_place(new: Path, place: Path, replace: bool) -> bool:
    """Renames `new` to `place`; True when something was there, which then lies under the name `new`.

    Raises OSError, FileExistsError when something is there and `replace` is false; `place` is then as it was.
    """
    try:
        os.rename(new, place)
    except OSError as error:
        if error.errno not in OCCUPIED:
            raise
        if not replace:
            raise FileExistsError(errno.EEXIST, "appeared while the model was copied", str(place)) from error
    else:
        return False
    try:
        exchange(new, place)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        exchange_by_renames(new, place)
    return True


def exchange(one: Path, other: Path) -> None:
    """Swaps two names in one step. Raises OSError; its errno is in UNSUPPORTED where this cannot be done."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:  # not Linux, or a C library without it
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(other))
    renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def aside_of(new: Path) -> Path:
    """Where what `new` replaces lies between the first two renames."""
    return new.with_name(f"{new.name}.old")


def exchange_by_renames(new: Path, place: Path) -> None:
    """The same in steps. When the second fails the first is taken back; who is killed before it leaves that to
    `staging.sweep`."""
    aside = aside_of(new)
    os.rename(place, aside)
    try:
        os.rename(new, place)
    except BaseException:
        os.rename(aside, place)
        raise
    os.rename(aside, new)
