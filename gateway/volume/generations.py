"""The private store of accepted generations: models are loaded from here, never from where they were dropped.

A generation is complete, checked, read-only and on disk before it has its name, which is the digest of its content;
equal content is stored once. Whatever goes wrong, nothing half-made is left, and what a killed process left is swept.

    <state>/generations/<digest>/generation.json
    <state>/generations/<digest>/files/...
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from contextlib import suppress
from typing import Final

import msgspec

from gateway.model import Generation, Manifest, Rejected
from gateway.volume import reasons
from gateway.volume.copying import Refused, copy, storing, write_all, writing
from gateway.volume.directory import Directory, look
from gateway.volume.manifest import judge
from gateway.volume.reasons import Unfit
from gateway.volume.sums import Sums

DIGEST: Final = re.compile(r"[0-9a-f]{64}")
FILES: Final = "files"
RECORD: Final = "generation.json"
RENAMED: Final = {"pytorch_model.safetensors": "model.safetensors"}  # transformers reads only the second name
SPARE_BYTES: Final = 16 * 1024**2  # for the record, folders, and what the file system itself needs


class Changed(Exception):
    """The directory changed while it was copied. Start over when it has settled again."""


class StoredFile(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: str


class Record(msgspec.Struct, frozen=True):
    """generation.json."""

    digest: str
    manifest: Manifest
    files: tuple[StoredFile, ...]


class Store:
    """Generations below one state directory, which no other gateway uses. Blocking; several lanes may take at once."""

    def __init__(self, state_dir: str, *, allow_pickle: bool = False, sums: Sums | None = None) -> None:
        self._base = os.path.join(os.path.abspath(state_dir), "generations")
        self._allow_pickle = allow_pickle
        self._sums = sums

    def accept(self, directory: Directory, root: str) -> Generation:
        """Judges a settled directory and takes a copy; links in it may lead anywhere below `root`.

        Raises Refused, or Changed if it changed meanwhile.
        """
        if directory.error:
            raise Refused((directory.error,))
        try:
            return self._accept(directory, root)
        except Refused as error:
            if _changed(directory, root):  # then the refusal was of a state that is no more
                raise Changed(directory.model.path) from error
            raise

    def _accept(self, directory: Directory, root: str) -> Generation:
        sums = self._sums or Sums(root)
        manifest = self._judge(directory.path, root)
        if reason := sums.check(directory).reason:
            raise Refused((reason,))
        self._make_room(_sizes(directory, manifest))
        staging = os.path.join(self._base, "." + secrets.token_hex(8))
        try:
            files = self._copy(directory, manifest, root, staging, sums)
            if _changed(directory, root):
                raise Changed(directory.model.path)
            return self._keep(staging, files)
        except Unfit as error:
            raise Refused((error.reason,)) from error
        finally:
            _erase(staging)

    def open(self, digest: str) -> Generation | None:
        """A stored generation, when its record can be read and every file has its size."""
        record = self._record(digest)
        if record is None:
            return None
        folder = os.path.join(self._base, digest, FILES)
        try:
            whole = all(os.stat(os.path.join(folder, file.path)).st_size == file.size for file in record.files)
        except OSError:
            return None
        return Generation(digest, folder, record.manifest) if whole else None

    def bytes(self, digest: str) -> int:
        """What a generation takes on the disk; 0 if there is none."""
        record = self._record(digest)
        return sum(file.size for file in record.files) if record else 0

    def digests(self) -> set[str]:
        """Every generation in the store, whole or not."""
        try:
            return {name for name in os.listdir(self._base) if DIGEST.fullmatch(name)}
        except FileNotFoundError:
            return set()

    def remove(self, digest: str) -> None:
        """Forgets a generation. Nothing may be using it."""
        away = os.path.join(self._base, "." + secrets.token_hex(8))
        try:
            os.rename(os.path.join(self._base, digest), away)  # first the name: half a generation never has one
        except FileNotFoundError:
            return
        _erase(away)

    def prune(self, keep: set[str]) -> set[str]:
        """Removes all but `keep`; -> what was removed."""
        gone = self.digests() - keep
        for digest in gone:
            self.remove(digest)
        return gone

    def sweep(self) -> None:
        """Makes the store, and removes what a killed process left half-made. Before anything else uses it."""
        with storing():
            os.makedirs(self._base, exist_ok=True)
            for name in os.listdir(self._base):
                if name.startswith("."):
                    _erase(os.path.join(self._base, name))

    def _judge(self, path: str, root: str) -> Manifest:
        verdict = judge(path, root=root, allow_pickle=self._allow_pickle)
        if isinstance(verdict, Rejected):
            raise Refused(verdict.reasons)
        return verdict.manifest

    def _make_room(self, needed: int) -> None:
        with storing():
            os.makedirs(self._base, exist_ok=True)
            free = shutil.disk_usage(self._base).free
        if needed + SPARE_BYTES > free:
            message = f"the copy needs {needed + SPARE_BYTES:,} bytes; the state directory's disk has {free:,} free"
            raise Refused((reasons.reason("disk_full", message),))

    def _copy(
        self, directory: Directory, manifest: Manifest, root: str, staging: str, sums: Sums
    ) -> tuple[StoredFile, ...]:
        with storing():
            os.mkdir(staging, 0o700)
        stats = {file.path: file for file in directory.files}
        files = []
        for name in manifest.files:
            kept = _kept_name(name)
            target = os.path.join(staging, FILES, kept)
            with storing():
                os.makedirs(os.path.dirname(target), exist_ok=True)
            known = sums.known(directory, stats[name]) if name in stats else None
            files.append(StoredFile(kept, *copy(os.path.join(directory.path, name), target, root, name, known)))
        return tuple(sorted(files, key=lambda file: file.path))

    def _keep(self, staging: str, files: tuple[StoredFile, ...]) -> Generation:
        """Judges the copy, and gives it its name."""
        folder = os.path.join(staging, FILES)
        record = Record(digest_of(files), self._judge(folder, folder), files)
        with writing(os.path.join(staging, RECORD)) as descriptor:
            write_all(descriptor, msgspec.json.encode(record))
        with storing():
            _seal(folder)
            _sync(staging)
            self._name(staging, record.digest)
        return Generation(record.digest, os.path.join(self._base, record.digest, FILES), record.manifest)

    def _name(self, staging: str, digest: str) -> None:
        """First the rename, then the look at what is in its way: two lanes may be taking equal content at once."""
        path = os.path.join(self._base, digest)
        try:
            os.rename(staging, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if self.open(digest):
                return  # equal content is there already; ours is erased
            self.remove(digest)  # damaged: somebody was in there
            os.rename(staging, path)
        _sync(self._base)

    def _record(self, digest: str) -> Record | None:
        if not DIGEST.fullmatch(digest):
            return None
        try:
            with open(os.path.join(self._base, digest, RECORD), "rb") as stream:
                record = msgspec.json.decode(stream.read(), type=Record)
        except (OSError, msgspec.DecodeError):
            return None
        return record if record.digest == digest else None


def digest_of(files: tuple[StoredFile, ...]) -> str:
    """The name of this content: SHA-256 over sorted "path NUL sha256 newline"."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.sha256}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _changed(directory: Directory, root: str) -> bool:
    now = look(directory, root)
    return now is None or now.fingerprint != directory.fingerprint


def _sizes(directory: Directory, manifest: Manifest) -> int:
    wanted = set(manifest.files)
    return sum(file.size for file in directory.files if file.path in wanted)


def _kept_name(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, RENAMED.get(base, base))


def _seal(folder: str) -> None:
    """Every folder read-only and on disk, the innermost first."""
    for path, _, _ in os.walk(folder, topdown=False):
        os.chmod(path, 0o555)
        _sync(path)


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system whose directories need none
            raise
    finally:
        os.close(descriptor)


def _erase(path: str) -> None:
    """Removes a tree whose folders are read-only; nothing if there is none."""
    with suppress(OSError):  # what stays is hidden, and swept at the next start
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)
