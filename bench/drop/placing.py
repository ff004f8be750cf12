"""Writers that no common tool is, as a process of its own: it is seen by what it holds, as any other.

    python placing.py WAY SOURCE TARGET '[[file, part, seconds], ...]'

`preallocated` gives every file its size first and fills all at once, as parallel downloaders do; `mapped` fills large
files through memory, as safetensors does; `rename` and `exchange` copy to a hidden name beside, and switch at the end.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Final

CHUNK: Final = 16384
MAPPED_FROM: Final = 65536  # bytes; smaller files are written plainly, also by tools that map
AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2  # renameat2(2)

Stalls = list[tuple[int, float, float]]


def files(source: Path) -> list[str]:
    return sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())


def preallocated(source: Path, target: Path, stalls: Stalls) -> None:
    names = files(source)
    contents = {name: (source / name).read_bytes() for name in names}
    opened = {}
    for number, name in enumerate(names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        opened[name] = os.open(target / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        size = len(contents[name])
        if number % 2 and size:
            os.posix_fallocate(opened[name], 0, size)
        else:
            os.ftruncate(opened[name], size)
    chunks = [(name, at) for name in names for at in range(0, len(contents[name]), CHUNK)]
    chunks.sort(key=lambda chunk: chunk[1])  # all grow at one speed, so that the largest is the last
    waits = {int((file + part) / (len(names) + 1) * len(chunks)): seconds for file, part, seconds in stalls}
    for number, (name, at) in enumerate(chunks):
        time.sleep(waits.get(number, 0))
        os.pwrite(opened[name], contents[name][at : at + CHUNK], at)
    for descriptor in opened.values():
        os.close(descriptor)


def mapped(source: Path, target: Path, stalls: Stalls) -> None:
    for number, name in enumerate(files(source)):
        content = (source / name).read_bytes()
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        inside = sorted((int(part * len(content)), seconds) for file, part, seconds in stalls if file == number)
        if len(content) >= MAPPED_FROM:
            _map(target / name, content, inside)
        else:
            _write(target / name, content, inside)
        time.sleep(sum(seconds for file, part, seconds in stalls if file == number and part == 1))


def _map(path: Path, content: bytes, stalls: list[tuple[int, float]]) -> None:
    with open(path, "r+b" if path.exists() else "w+b") as stream:
        stream.truncate(len(content))
        with mmap.mmap(stream.fileno(), len(content)) as memory:
            for begin, end, seconds in _parts(content, stalls):
                memory[begin:end] = content[begin:end]
                time.sleep(seconds)


def _write(path: Path, content: bytes, stalls: list[tuple[int, float]]) -> None:
    with open(path, "wb") as stream:
        for begin, end, seconds in _parts(content, stalls):
            stream.write(content[begin:end])
            stream.flush()
            time.sleep(seconds)


def _parts(content: bytes, stalls: list[tuple[int, float]]) -> list[tuple[int, int, float]]:
    """(from, to, seconds to wait then); a stall at the very end is one between two files."""
    parts, begin = [], 0
    for end, seconds in [stall for stall in stalls if stall[0] < len(content)]:
        parts.append((begin, end, seconds))
        begin = end
    return [*parts, (begin, len(content), 0.0)]


def rename(source: Path, target: Path, stalls: Stalls) -> None:
    """The old one goes aside, and the new one takes its place."""
    fresh = _beside(source, target, stalls)
    aside = target.parent / f".{target.name}.old"
    if target.exists():
        target.rename(aside)
    fresh.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def exchange(source: Path, target: Path, stalls: Stalls) -> None:
    fresh = _beside(source, target, stalls)
    if not target.exists():
        fresh.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(fresh), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2", str(target))
    shutil.rmtree(fresh)


def _beside(source: Path, target: Path, stalls: Stalls) -> Path:
    """The directory under a hidden name; it was copied with stalls."""
    fresh = target.parent / f".{target.name}.new"
    for number, name in enumerate(files(source)):
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        inside = [(int(part * 1000), seconds) for file, part, seconds in stalls if file == number]
        _write(fresh / name, (source / name).read_bytes(), [])
        time.sleep(sum(seconds for _, seconds in inside))
    return fresh


WAYS: Final = {each.__name__: each for each in (preallocated, mapped, rename, exchange)}

if __name__ == "__main__":
    way, source, target, stalls = sys.argv[1:]
    WAYS[way](Path(source), Path(target), [tuple(stall) for stall in json.loads(stalls)])
