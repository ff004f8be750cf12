"""What a host has made of a generation and keeps beside it in the store: a converted network, a measured precision.

It has its name only when it is whole and on disk, so that a crash leaves no half under a name; the store sweeps what
else it leaves, and removes all of it with the generation. One that is served in place has no shelf: nothing is kept.

    <state>/generations/<digest>/runtimes/<name>/...
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress

from gateway.model import Generation
from gateway.volume.generations import RUNTIMES


def find(generation: Generation, name: str) -> str | None:
    """The path of what is kept under this name."""
    folder = _folder(generation)
    path = os.path.join(folder, name) if folder else ""
    return path if path and os.path.exists(path) else None


def keep(generation: Generation, name: str, write: Callable[[str], None]) -> str | None:
    """Has `write` make a folder of files at the path that it is given, and keeps it; -> where it is now. None where
    nothing can be kept: there is no shelf, or no room."""
    folder = _folder(generation)
    if folder is None:
        return None
    staging = os.path.join(folder, "." + secrets.token_hex(8))
    try:
        with suppress(FileExistsError):
            os.mkdir(folder)  # never its parent: a generation that was removed meanwhile stays removed
        os.mkdir(staging)
        write(staging)
        _sync(staging)
        os.rename(staging, os.path.join(folder, name))
    except OSError:
        return find(generation, name)  # another was quicker, perhaps
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return os.path.join(folder, name)


def remove(generation: Generation, name: str) -> None:
    """Forgets what is kept under this name; it may not be there."""
    if path := find(generation, name):
        shutil.rmtree(path, ignore_errors=True)


def names(generation: Generation) -> list[str]:
    folder = _folder(generation)
    with suppress(OSError):
        return sorted(name for name in os.listdir(folder or "") if not name.startswith("."))
    return []


def _folder(generation: Generation) -> str | None:
    """Only a generation of the store has one: its files lie in a folder of its own digest's."""
    home = os.path.dirname(generation.path)
    in_store = generation.place is None and os.path.basename(home) == generation.digest
    return os.path.join(home, RUNTIMES) if in_store else None


def _sync(folder: str) -> None:
    """The files and their names on disk."""
    for path in [*(os.path.join(folder, name) for name in os.listdir(folder)), folder]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
