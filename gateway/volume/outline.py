"""A bucket's listing as a tree of hollow files: every object's name, size and date, and nothing of its content.

What looks at a volume looks at this tree, so that the rules for directories are one and the same. A file is made anew
when its object is another (size or ETag), and left alone otherwise, also over restarts: fingerprints stay.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from gateway.volume.objects import Object
from gateway.volume.source import Ignored

INDEX: Final = ".index.json"
LONGEST: Final = 255  # bytes of one name
MOST_LEVELS: Final = 16
MOST_REFUSED: Final = 200  # that are shown


class Index(msgspec.Struct):
    """What the tree was made of."""

    objects: dict[str, Object]


class Outline:
    """The tree below `root`, which is nobody else's. Blocking; for one thread, while others may read the tree."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.refused: tuple[Ignored, ...] = ()  # keys that are no paths
        self._objects: dict[str, Object] | None = None

    def object(self, path: str) -> Object | None:
        """What lies in the bucket at a path of the tree."""
        return (self._objects or {}).get(path)

    @property
    def objects(self) -> Sequence[Object]:
        return list((self._objects or {}).values())

    def match(self, listed: Sequence[Object], content: Callable[[Object], bytes | None]) -> bool:
        """Makes the tree what was listed; -> whether anything has changed. `content` answers for the few files that
        are more than a name. Raises OSError; the next call goes on from there."""
        wanted, self.refused = _paths(listed)
        before = self._known()
        gone = [path for path, found in before.items() if path not in wanted or _is_other(found, wanted[path])]
        fresh = [found for path, found in wanted.items() if path not in before or _is_other(before[path], found)]
        for path in gone:
            del before[path]
            if path not in wanted:  # what is replaced is replaced in one step
                self._remove(path)
        for found in fresh:
            self._make(found, content(found))
            before[found.path] = found
        if gone or fresh:
            self._write_down()
        return bool(gone or fresh)

    def _known(self) -> dict[str, Object]:
        """What the tree has. At the first call as it was left: a file that the index does not have is removed."""
        if self._objects is None:
            os.makedirs(self.root, exist_ok=True)
            noted = _read(os.path.join(self.root, INDEX))
            there = set(_files(self.root))
            for path in there - noted.keys():
                self._remove(path)
            self._objects = {path: found for path, found in noted.items() if path in there}
        return self._objects

    def _make(self, found: Object, content: bytes | None) -> None:
        path = os.path.join(self.root, found.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        draft = os.path.join(self.root, f".new.{secrets.token_hex(8)}")
        try:
            with open(draft, "xb") as stream:
                if content is None:
                    stream.truncate(found.size)
                else:
                    stream.write(content)
            os.utime(draft, (found.modified, found.modified))
            os.replace(draft, path)
        finally:
            with suppress(OSError):
                os.unlink(draft)

    def _remove(self, path: str) -> None:
        """With the folders that are empty then, as a bucket has none."""
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.root, path))
        while path := os.path.dirname(path):
            try:
                os.rmdir(os.path.join(self.root, path))
            except OSError:
                return

    def _write_down(self) -> None:
        draft = os.path.join(self.root, f".new.{secrets.token_hex(8)}")
        with open(draft, "xb") as stream:
            stream.write(msgspec.json.encode(Index(self._objects or {})))
        os.replace(draft, os.path.join(self.root, INDEX))


def _paths(listed: Sequence[Object]) -> tuple[dict[str, Object], tuple[Ignored, ...]]:
    """The objects whose keys are paths, by these; and the others, with the reason."""
    wanted: dict[str, Object] = {}
    refused: list[Ignored] = []
    for found in listed:
        if found.path.endswith("/"):
            continue  # what a browser of buckets makes for an empty folder
        if why := _why_not(found.path):
            refused.append(Ignored(ascii(found.path)[1:-1], why))
        elif not found.path.startswith("."):  # staging, as on any volume
            wanted[found.path] = found
    folders = {folder for path in wanted for folder in _above(path)}
    for path in sorted(wanted.keys() & folders):
        del wanted[path]
        refused.append(Ignored(ascii(path)[1:-1], "this key is a file and a folder: a directory has one or the other"))
    return wanted, tuple(refused[:MOST_REFUSED])


def _why_not(key: str) -> str | None:
    parts = key.split("/")
    if any(part in {".", ".."} for part in parts):
        return "a key with '.' or '..' for a part of its path is never followed"
    if "" in parts:
        return "a key with '//' in it, or with '/' at its beginning, is no path"
    if "\0" in key or len(parts) > MOST_LEVELS or not all(_is_name(part) for part in parts):
        return f"a path has at most {MOST_LEVELS} parts of at most {LONGEST} bytes, without a null byte"
    return None


def _is_name(part: str) -> bool:
    try:
        return len(os.fsencode(part)) <= LONGEST
    except UnicodeEncodeError:  # half a character
        return False


def _above(path: str) -> Iterator[str]:
    while path := os.path.dirname(path):
        yield path


def _is_other(before: Object, now: Object) -> bool:
    return (before.size, before.etag) != (now.size, now.etag)


def _read(path: str) -> dict[str, Object]:
    with suppress(OSError, ValueError), open(path, "rb") as stream:
        return msgspec.json.decode(stream.read(), type=Index).objects
    return {}


def _files(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        if folder == root:
            folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (os.path.relpath(os.path.join(folder, name), root) for name in names)
        yield from (path for path in paths if not path.startswith("."))  # those are ours
