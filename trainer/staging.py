"""Where a model lies until it is whole: beside its place, under names that the gateway ignores.

    .NAME.TOKEN        what is made; after an exchange, what it has replaced
    .NAME.TOKEN.old    what had the place, between the two renames of an exchange
    .NAME.TOKEN.lock   locked by whoever makes it, on every machine that has the volume

Whoever is killed leaves them behind with a lock that nobody holds: by that the next one knows them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trainer.exchange import aside_of

PULL: Final = "pull"  # the token of a pull, whose stage stays: the next one goes on from it
LOCK: Final = re.compile(rf"\.(?P<name>.+)\.(?P<token>[0-9a-f]{{8}}|{PULL})\.lock")
NO_LOCKS: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def staging(place: Path) -> Iterator[Path]:
    """A new folder beside `place`. After an exchange it holds the old model: gone in any case. Raises OSError."""
    stage = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(stage, wait=True))  # for a sweep that saw it before it was locked
        except OSError as error:
            if error.errno not in NO_LOCKS:  # there it has no lock file, and nobody takes it for one that was left
                raise
        try:
            stage.mkdir()
            yield stage
        finally:
            _put_back(stage, place)
            _remove(stage)


@contextlib.contextmanager
def held(stage: Path, *, wait: bool = False) -> Iterator[None]:
    """The lock of a stage, which goes when nothing of the stage is left. Raises BlockingIOError while another has it,
    unless it is to `wait`; OSError where there are no locks."""
    path = stage.with_name(f"{stage.name}.lock")
    while (descriptor := _locked(path, wait)) is None:
        pass
    try:
        yield
    finally:
        if not os.path.lexists(stage) and not os.path.lexists(aside_of(stage)):
            path.unlink(missing_ok=True)  # before it is let go: whoever waits for it sees that it has no name
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Ends what was begun in `folder` and killed: a model that was put aside has its name again, and stages are gone.
    Of a pull the stage stays. What cannot be ended is left to the next one."""
    try:
        locks = list(folder.glob(".*.lock"))
    except OSError:  # whoever publishes there is told soon enough
        return
    for lock in locks:
        found = LOCK.fullmatch(lock.name)
        if found is None:
            continue
        stage = lock.with_suffix("")
        with contextlib.suppress(OSError), held(stage):  # somebody is at work there, or it is another user's
            _put_back(stage, folder / found["name"])
            if found["token"] != PULL:
                _remove(stage)


def _locked(path: Path, wait: bool) -> int | None:
    """The descriptor of a locked file; None when it lost its name meanwhile."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # to be written: else NFS locks nothing for others
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return os.dup(descriptor)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in NO_LOCKS:
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return None


def _put_back(stage: Path, place: Path) -> None:
    """What an exchange that did not end has put aside. The stage is there only until its second rename: after that,
    a place without anything was emptied by somebody who meant it."""
    aside = aside_of(stage)
    if not os.path.lexists(aside):
        return
    if os.path.lexists(stage) and not os.path.lexists(place):
        os.rename(aside, place)
    else:
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
