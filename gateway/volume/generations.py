"""The private store of accepted generations: models are loaded from here, never from where they were dropped.

A generation is complete, checked, read-only and on disk before it has its name, which is the digest of its content;
equal content is stored once. Whatever goes wrong, nothing half-made is left, and what a killed process left is swept.
A model that is too large to be copied has a record alone: what it is, and the state of its directory that it was.

    <state>/generations/<digest>/generation.json
    <state>/generations/<digest>/files/...
    <state>/generations/<digest>/metadata/...     what is said of it by each model that it is; no part of the digest
    <state>/generations/<digest>/runtimes/...     what hosts made of it
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

import msgspec
import orjson

from gateway.model import Accepted, Generation, Manifest, Place, Rejected
from gateway.volume import nesting, reasons
from gateway.volume.bases import Base
from gateway.volume.copying import Changed, Refused, copy, storing, write_all, writing
from gateway.volume.directory import Directory, look
from gateway.volume.manifest import judge, not_ready
from gateway.volume.reasons import Unfit
from gateway.volume.record import IN_PLACE, Record, StoredFile, digest_of, kept_name, may_stay, stands
from gateway.volume.sums import Sums

DIGEST: Final = re.compile(r"[0-9a-f]{64}")
FILES: Final = "files"
RUNTIMES: Final = "runtimes"
RECORD: Final = "generation.json"
THIN: Final = "thin"  # the mark of one whose weights are away: they are fetched before it is loaded
NOTES: Final = "metadata"
LONGEST_NOTE: Final = 1024**2  # bytes
SPARE_BYTES: Final = 16 * 1024**2  # for the record, folders, and what the file system itself needs


Take = Callable[[str, str], tuple[int, str]]  # the name of a file, and where it is to be; -> its size and its SHA-256


class Elsewhere(Protocol):
    """Where directories lie whose files have to be fetched first. Everything raises Changed and Refused."""

    @property
    def sums(self) -> Sums:
        """Digests of what was fetched."""

    def look(self, directory: Directory) -> Directory | None:
        """The same directory now. None when it has gone."""

    def around(self, directory: Directory) -> Directory | None:
        """The directory without the nested one, as it is now. None when it has gone."""

    def bring(self, directory: Directory, names: Sequence[str]) -> None:
        """Fetches these files, and what else a proof of the directory needs."""

    def take(self, directory: Directory, name: str, target: str) -> tuple[int, str]:
        """One file into the store; -> its size and SHA-256."""


class Store:
    """Generations below one state directory, which no other gateway uses. Blocking; several lanes may take at once.

    Models over `copy_budget` bytes (0: none is) stay in place, with `in_place` those too that the disk has no room for.
    What lies `elsewhere` is fetched when it is known to be worth it, and never stays there.
    """

    def __init__(
        self,
        state_dir: str,
        *,
        allow_pickle: bool = False,
        sums: Sums | None = None,
        copy_budget: int = 0,
        in_place: bool = False,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._base = os.path.join(os.path.abspath(state_dir), "generations")
        self._allow_pickle = allow_pickle
        self._sums = elsewhere.sums if elsewhere else sums
        self._elsewhere = elsewhere
        self._copy_budget = copy_budget
        self._in_place = in_place

    def choose(self, directory: Directory, root: str, base: Base | None = None) -> Directory:
        """The directory itself, or where it holds another of its name the one of the two that is meant, with a warning.
        `base` is that of an adapter.

        Raises Changed if it changed meanwhile.
        """
        inner = directory.nested
        if inner is None or directory.error:
            return directory
        outer = self._elsewhere.around(directory) if self._elsewhere else nesting.around(directory, root)
        if outer is None or self._changed(directory, root):
            raise Changed(directory.model.path)
        return nesting.choose(outer, self._fit(outer, root, base), inner, self._fit(inner, root, base))

    def accept(self, directory: Directory, root: str, base: Base | None = None) -> Generation:
        """Judges a settled directory and takes a copy; links in it may lead anywhere below `root`. `base` is what an
        adapter changes, in this store as well.

        Of two nested ones it takes the one that `choose` says. Raises Refused, or Changed if it changed meanwhile.
        """
        if directory.error:
            raise Refused((directory.error,))
        directory = self.choose(directory, root, base)
        try:
            return self._accept(directory, root, base)
        except Refused as error:
            if self._changed(directory, root):  # then the refusal was of a state that is no more
                raise Changed(directory.model.path) from error
            raise

    def _accept(self, directory: Directory, root: str, base: Base | None) -> Generation:
        sums = self._sums or Sums(root)
        manifest = self._judge(directory.path, root, base)
        if manifest.lora is not None and base is None:  # fit for what lies on the volume, of which there is no copy yet
            raise Refused((not_ready(manifest.lora.base, "it has not been taken in yet").reason,))
        if self._elsewhere is not None:
            self._elsewhere.bring(directory, manifest.files)
        if reason := sums.check(directory).reason:
            raise Refused((reason,))
        size = _sizes(directory, manifest) if self._elsewhere is None else 0  # what was fetched is here
        if self._is_large(size) and may_stay(manifest):
            return self._take_in_place(directory, manifest, root, sums, base)
        self._make_room(size)
        staging = os.path.join(self._base, "." + secrets.token_hex(8))
        try:
            files = self._copy(manifest, staging, self._taker(directory, root, sums))
            if self._changed(directory, root):
                raise Changed(directory.model.path)
            return self._keep(staging, files, manifest, base)
        except Unfit as error:
            raise Refused((error.reason,)) from error
        finally:
            _erase(staging)

    def digest(self, directory: Directory, root: str, base: Base | None = None) -> str:
        """What `accept` would name its content, if it took it: every file is read, and none is written. Raises Refused,
        or Changed."""
        directory = self.choose(directory, root, base)
        files = self._hash(directory, (manifest := self._judge(directory.path, root, base)), self._sums or Sums(root))
        below = base.generation.digest if base and manifest.lora else None
        return digest_of(files, manifest.wish, below)

    def adopt(self, generation: Generation, base: Base | None = None) -> Generation:
        """Takes a copy of a generation that lies in another store. What it turns out to be is its name here, whatever
        it was called there. Raises Refused."""
        self._make_room(generation.manifest.stored_bytes)
        staging = os.path.join(self._base, "." + secrets.token_hex(8))
        try:
            taken = partial(_copied, generation.path, generation.path, lambda name: None)
            files = self._copy(generation.manifest, staging, taken)
            return self._keep(staging, files, generation.manifest, base)
        except Unfit as error:
            raise Refused((error.reason,)) from error
        finally:
            _erase(staging)

    def open(self, digest: str) -> Generation | None:
        """A stored generation, when its record can be read and every file has its size; of an adapter with its base."""
        record = self._record(digest)
        if record is None:
            return None
        base = self.open(record.base) if record.base else None
        if record.base and base is None:
            return None
        if record.path is not None and record.place is not None:
            return Generation(digest, record.path, record.manifest, record.place, base) if stands(record) else None
        folder = os.path.join(self._base, digest, FILES)
        away = record.manifest.weights if os.path.lexists(os.path.join(self._base, digest, THIN)) else ()
        here = (file for file in record.files if file.path not in away)
        try:
            whole = all(os.stat(os.path.join(folder, file.path)).st_size == file.size for file in here)
        except OSError:
            return None
        return Generation(digest, folder, record.manifest, base=base) if whole else None

    def bytes(self, digest: str) -> int:
        """What a generation takes on the disk; 0 if there is none, or if it is served in place."""
        record = self._record(digest)
        return sum(file.size for file in record.files) if record and record.place is None else 0

    def record(self, digest: str) -> Record | None:
        """What was written down of a generation: its files with their digests, and its manifest."""
        return self._record(digest)

    def note(self, digest: str, model: str, metadata: Mapping[str, Any]) -> None:
        """Keeps what is said of a generation under the name of a model: its directory may not say it for long, and
        equal content of another model is another's to describe. It is only ever shown: what the disk does not take is
        let go."""
        content = orjson.dumps(metadata)
        if len(content) > LONGEST_NOTE or metadata == self.noted(digest, model):
            return
        path = self._note(digest, model)
        draft = f"{path}.{secrets.token_hex(4)}"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(draft, "xb") as stream:
                stream.write(content)
            os.replace(draft, path)
        except OSError:
            with suppress(OSError):
                os.unlink(draft)

    def noted(self, digest: str, model: str) -> dict[str, Any]:
        """What was said of it; {} where nobody knows."""
        try:
            with open(self._note(digest, model), "rb") as stream:
                found = orjson.loads(stream.read(LONGEST_NOTE + 1))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _note(self, digest: str, model: str) -> str:
        return os.path.join(self._base, digest, NOTES, hashlib.sha256(model.encode()).hexdigest()[:32] + ".json")

    def folder(self, digest: str) -> str:
        """Where a generation lies, if there is one."""
        return os.path.join(self._base, digest)

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
                made = os.path.join(self._base, name, RUNTIMES)
                halves = [os.path.join(made, half) for half in _hidden(made)]
                for path in [os.path.join(self._base, name)] if name.startswith(".") else halves:
                    _erase(path)

    def _changed(self, directory: Directory, root: str) -> bool:
        now = self._elsewhere.look(directory) if self._elsewhere else look(directory, root)
        return now is None or now.fingerprint != directory.fingerprint

    def _judge(self, path: str, root: str, base: Base | None) -> Manifest:
        verdict = judge(path, root=root, allow_pickle=self._allow_pickle, base=base)
        if isinstance(verdict, Rejected):
            raise Refused(verdict.reasons)
        return verdict.manifest

    def _fit(self, directory: Directory, root: str, base: Base | None) -> Manifest | None:
        """What the directory is, if nothing of it alone stands against serving it."""
        verdict = judge(directory.path, root=root, allow_pickle=self._allow_pickle, base=base)
        whole = directory.error is None and (self._sums or Sums(root)).check(directory).reason is None
        return verdict.manifest if isinstance(verdict, Accepted) and whole else None

    def _is_large(self, size: int) -> bool:
        return 0 < self._copy_budget < size or (self._in_place and size + SPARE_BYTES > self._free())

    def _hash(self, directory: Directory, manifest: Manifest, sums: Sums) -> tuple[StoredFile, ...]:
        """Raises Refused, or Changed."""
        stats = {file.path: file for file in directory.files}
        if not stats.keys() >= set(manifest.files):  # one of them came after the look
            raise Changed(directory.model.path)
        try:
            named = [(kept_name(name), stats[name]) for name in manifest.files]
            return tuple(StoredFile(name, stat.size, sums.digest(directory, stat)) for name, stat in named)
        except Unfit as error:
            raise Refused((error.reason,)) from error

    def _take_in_place(
        self, directory: Directory, manifest: Manifest, root: str, sums: Sums, base: Base | None
    ) -> Generation:
        """The same digest as a copy would have, and no copy: every file is read, and none is written."""
        files = self._hash(directory, manifest, sums)
        if self._changed(directory, root):
            raise Changed(directory.model.path)
        below = base.generation if base and manifest.lora else None
        digest = digest_of(files, manifest.wish, below.digest if below else None)
        stored = self.open(digest)
        if stored is not None and stored.place is None:
            return stored  # a copy, from when there was room for one
        name = directory.model.name
        place = Place(os.path.realpath(root), name, tuple(sorted(directory.apart)), directory.fingerprint)
        manifest = msgspec.structs.replace(manifest, warnings=(*manifest.warnings, IN_PLACE))
        record = Record(digest, manifest, files, directory.path, place, below.digest if below else None)
        self._write_down(record)
        return Generation(record.digest, directory.path, manifest, place, below)

    def _write_down(self, record: Record) -> None:
        """Keeps the record of a generation that is served in place, for the next start."""
        staging = os.path.join(self._base, "." + secrets.token_hex(8))
        try:
            with storing():
                os.makedirs(staging, 0o700)
            with writing(os.path.join(staging, RECORD)) as descriptor:
                write_all(descriptor, msgspec.json.encode(record))
            with storing():
                _sync(staging)
                self._name(staging, record.digest)
        finally:
            _erase(staging)

    def _free(self) -> int:
        with storing():
            os.makedirs(self._base, exist_ok=True)
            return shutil.disk_usage(self._base).free

    def _make_room(self, needed: int) -> None:
        free = self._free()
        if needed + SPARE_BYTES > free:
            message = f"the copy needs {needed + SPARE_BYTES:,} bytes; the state directory's disk has {free:,} free"
            raise Refused((reasons.reason("disk_full", message),))

    def _taker(self, directory: Directory, root: str, sums: Sums) -> Take:
        if self._elsewhere is not None:
            return partial(self._elsewhere.take, directory)
        stats = {file.path: file for file in directory.files}
        return partial(
            _copied, directory.path, root, lambda name: sums.known(directory, stats[name]) if name in stats else None
        )

    def _copy(self, manifest: Manifest, staging: str, take: Take) -> tuple[StoredFile, ...]:
        """What the manifest names."""
        with storing():
            os.mkdir(staging, 0o700)
        files = []
        for name in manifest.files:
            kept = kept_name(name)
            target = os.path.join(staging, FILES, kept)
            with storing():
                os.makedirs(os.path.dirname(target), exist_ok=True)
            files.append(StoredFile(kept, *take(name, target)))
        return tuple(sorted(files, key=lambda file: file.path))

    def _keep(self, staging: str, files: tuple[StoredFile, ...], original: Manifest, base: Base | None) -> Generation:
        """Judges the copy, and gives it its name. What the metadata said, which is not copied, is the `original`'s."""
        folder = os.path.join(staging, FILES)
        judged = self._judge(folder, folder, base)
        manifest = msgspec.structs.replace(judged, wish=original.wish, samples=original.samples)
        below = base.generation if base and manifest.lora else None
        digest = digest_of(files, manifest.wish, below.digest if below else None)
        record = Record(digest, manifest, files, base=below.digest if below else None)
        with writing(os.path.join(staging, RECORD)) as descriptor:
            write_all(descriptor, msgspec.json.encode(record))
        with storing():
            _seal(folder)
            _sync(staging)
            self._name(staging, digest)
        return Generation(digest, os.path.join(self._base, digest, FILES), manifest, base=below)

    def _name(self, staging: str, digest: str) -> None:
        """First the rename, then the look at what is in its way: two lanes may be taking equal content at once."""
        path = os.path.join(self._base, digest)
        try:
            os.rename(staging, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            there = self.open(digest)
            if there is not None and there.place is None and not os.path.lexists(os.path.join(path, THIN)):
                return  # equal content is there already; ours is erased
            self.remove(digest)  # damaged: somebody was in there; or a record alone, where the content may have changed
            os.rename(staging, path)
        _sync(self._base)

    def _record(self, digest: str) -> Record | None:
        if not DIGEST.fullmatch(digest):
            return None
        try:
            with open(os.path.join(self._base, digest, RECORD), "rb") as stream:
                record = msgspec.json.decode(stream.read(), type=Record)
        except (OSError, ValueError):
            return None
        return record if record.digest == digest else None


def _copied(path: str, root: str, known: Callable[[str], str | None], name: str, target: str) -> tuple[int, str]:
    """A file below `path`, copied; `known` says which SHA-256 it is known to have."""
    return copy(os.path.join(path, name), target, root, name, known(name))


def _sizes(directory: Directory, manifest: Manifest) -> int:
    wanted = set(manifest.files)
    return sum(file.size for file in directory.files if file.path in wanted)


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


def _hidden(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.startswith(".")]
    except OSError:
        return []


def _erase(path: str) -> None:
    """Removes a tree whose folders are read-only; nothing if there is none."""
    with suppress(OSError):  # what stays is hidden, and swept at the next start
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)
