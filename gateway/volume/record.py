"""What the store writes down of a generation: which files it is made of, and the digest over them that is its name."""

from __future__ import annotations

import hashlib
import os
from typing import Final

import msgspec

from gateway.model import Manifest, Place
from gateway.volume.directory import unchanged
from gateway.wish import Wish

RENAMED: Final = {"pytorch_model.safetensors": "model.safetensors"}  # one name in the store, whatever it was called
IN_PLACE: Final = (
    "it is larger than what may be copied, and is served in place: replace it by a rename, never file by file"
)


class StoredFile(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: str


class Record(msgspec.Struct, frozen=True):
    """generation.json. `path` and `place` are those of a generation that is served in place; `base` is the digest of
    an adapter's base."""

    digest: str
    manifest: Manifest
    files: tuple[StoredFile, ...]
    path: str | None = None
    place: Place | None = None
    base: str | None = None


def digest_of(files: tuple[StoredFile, ...], wish: Wish, base: str | None = None) -> str:
    """The name of this content: SHA-256 over sorted "path NUL sha256 newline", and then, if there is a wish,
    "NUL runtime/dtype newline", and of an adapter "NUL base digest newline", which no file can have for its line."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.sha256}\n".encode(errors="surrogateescape"))
    if wish != Wish():
        digest.update(f"\0{wish.runtime}/{wish.dtype}\n".encode())
    if base is not None:
        digest.update(f"\0base {base}\n".encode())
    return digest.hexdigest()


def kept_name(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, RENAMED.get(base, base))


def may_stay(manifest: Manifest) -> bool:
    """Whether all files can be read into memory under the names that they have. torch maps pickles, whatever it is
    told, and a file that is mapped changes, or ends the process, when somebody writes to it."""
    return not any(name.endswith(".bin") or os.path.basename(name) in RENAMED for name in manifest.files)


def stands(record: Record) -> bool:
    """Whether what it says of a directory on the volume still holds."""
    return record.path is not None and record.place is not None and unchanged(record.path, record.place)
