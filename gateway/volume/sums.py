"""SHA256SUMS, as `sha256sum` writes it: the one proof of wholeness that holds in any order of copying.

It proves a directory whole when every file that it lists has the listed content and no file that a model is made of
stands beside the list. One that does not match is a reason to refuse the directory, however quiet it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Final

import msgspec

from gateway.model import Reason
from gateway.volume import reasons
from gateway.volume.directory import Directory, FileStat, is_apart
from gateway.volume.files import open_regular, read_capped, shown_name
from gateway.volume.reasons import Unfit

NAME: Final = "SHA256SUMS"
CAP: Final = 1024**2  # bytes
LINE: Final = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
BLOCK: Final = 4 * 1024**2
MODEL_SUFFIXES: Final = (".safetensors", ".bin", ".xml", ".json", ".txt", ".model")
DESCRIPTIVE: Final = frozenset({"model_metadata.json"})  # says something about the model, and is no part of it
REMEMBERED: Final = 4096  # directories
Stat = tuple[int, int, int, int, int]


class Checked(msgspec.Struct, frozen=True):
    """`verified`: every listed file matches and the list covers the model. `reason`: which one does not match.

    Neither: there is no SHA256SUMS, or it leaves model files out and so proves nothing.
    """

    verified: bool = False
    reason: Reason | None = None


class Sums:
    """Checks directories against their SHA256SUMS. A file is hashed once per stat: while a copy grows, the files that
    are there already cost nothing more. What a directory held before is forgotten, so that a thousand swaps of one
    model take no more memory than one. Blocking; lanes may share it."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self._known: dict[str, dict[Stat, str]] = {}  # by directory; plain ones: their operations are atomic

    def check(self, directory: Directory) -> Checked:
        """Whether the directory is what its SHA256SUMS says."""
        self._forget(directory)
        if directory.file(NAME) is None:
            return Checked()
        try:
            listed = read(directory.path, self._root)
            self._compare(directory, listed)
        except Unfit as error:
            return Checked(reason=error.reason)
        return Checked(verified=not unlisted(directory, listed))

    def known(self, directory: Directory, file: FileStat) -> str | None:
        """The SHA-256 of a file whose stat has not changed since it was hashed."""
        return self._known.get(directory.path, {}).get(_key(directory, file))

    def _forget(self, directory: Directory) -> None:
        """What is known of files that have left a directory; and the directory that was new longest ago, if there are
        too many."""
        if known := self._known.get(directory.path):
            there = [_key(directory, file) for file in directory.files]
            self._known[directory.path] = {key: known[key] for key in there if key in known}
        elif len(self._known) >= REMEMBERED:
            self._known.pop(next(iter(self._known), ""), None)

    def _compare(self, directory: Directory, listed: dict[str, str]) -> None:
        files = {file.path: file for file in directory.files}
        ours = {path: digest for path, digest in listed.items() if not _is_apart(path)}
        if missing := sorted(ours.keys() - files.keys()):
            shown = shown_name(missing[0])
            raise reasons.unfit("checksum_mismatch", f"{shown} stands in {NAME} and is not there", shown)
        for path in sorted(ours, key=lambda path: files[path].size):  # the cheap ones may settle it
            if self.digest(directory, files[path]) != ours[path]:
                shown = shown_name(path)
                message = f"{shown} is not the file that {NAME} lists: its content is another, or cut short"
                raise reasons.unfit("checksum_mismatch", message, shown)

    def digest(self, directory: Directory, file: FileStat) -> str:
        """The SHA-256 of a file, read if its stat is not known. Raises Unfit."""
        key = _key(directory, file)
        if (known := self.known(directory, file)) is not None:
            return known
        with open_regular(os.path.join(directory.path, file.path), self._root, file.path) as descriptor:
            digest = _sha256(descriptor)
            now = os.fstat(descriptor)
        if (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) == key[1:]:
            self._known.setdefault(directory.path, {})[key] = digest
        return digest


def read(path: str, root: str) -> dict[str, str]:
    """Relative path -> SHA-256, of the SHA256SUMS in the directory `path`. Raises Unfit."""
    return parse(read_capped(os.path.join(path, NAME), root, CAP, NAME))


def parse(content: bytes) -> dict[str, str]:
    """Relative path -> SHA-256. Lines in text and in binary mode; escaped names, absolute ones and `..` are refused.

    Raises Unfit with checksum_mismatch: a list that is cut short does not match either.
    """
    listed: dict[str, str] = {}
    text = content.decode(errors="surrogateescape")
    for number, line in enumerate(text.replace("\r\n", "\n").removesuffix("\n").split("\n"), 1):
        found = LINE.fullmatch(line)
        parts = found[2].split("/") if found else [".."]
        while parts[0] == ".":
            parts.pop(0)
            parts = parts or [".."]
        if not found or not all(part not in {"", ".", ".."} for part in parts):
            message = f"line {number} of {NAME} is not '<sha256>  <relative path>'"
            raise reasons.unfit("checksum_mismatch", message, NAME)
        listed["/".join(parts)] = found[1].lower()
    return listed


def unlisted(directory: Directory, listed: dict[str, str]) -> list[str]:
    """Files that a model is made of and that no list proves."""
    names = [file.path for file in directory.files if file.path.endswith(MODEL_SUFFIXES)]
    return [name for name in names if name not in listed and os.path.basename(name) not in DESCRIPTIVE]


def _is_apart(path: str) -> bool:
    """Whether a listed file is no part of the model anyhow: hidden, or of a checkpoint; or the list itself."""
    return path == NAME or any(is_apart(part) for part in path.split("/"))


def _key(directory: Directory, file: FileStat) -> Stat:
    return (directory.device, file.inode, file.size, file.mtime_ns, file.ctime_ns)


def _sha256(descriptor: int) -> str:
    digest = hashlib.sha256()
    while block := os.read(descriptor, BLOCK):
        digest.update(block)
    return digest.hexdigest()
