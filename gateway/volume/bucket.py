"""A bucket as the volume: a look is a listing, and a settled directory is fetched to this node before it is judged.

    <state>/bucket/<url>/...            the outline: what lies in the bucket, by names and sizes
    <state>/bucket/<url>/.parts/        objects that were fetched
    <state>/bucket/<url>/.opened/       directories that are being judged: small files, heads of weights, links

First comes what a verdict can be reached from, the small files and the heads of the weights, so that a directory which
is refused costs no weights. A listing that does not come is "unknown", as an unmounted volume is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Literal

import msgspec

from gateway import events
from gateway.settings import Settings
from gateway.volume import directory as directories
from gateway.volume import reasons
from gateway.volume.copying import Changed, Refused, storing
from gateway.volume.directory import Directory, FileStat
from gateway.volume.files import TOKENIZER_CAP
from gateway.volume.objects import Forbidden, Gone, Object, Objects, Unreachable
from gateway.volume.outline import Outline
from gateway.volume.parts import Parts
from gateway.volume.proofs import FetchedSums, ListedEvidence, Progress
from gateway.volume.reasons import Unfit
from gateway.volume.settle import Evidence
from gateway.volume.source import Scan, VolumeUnreadable, scan
from gateway.volume.sums import NAME as SUMS
from gateway.volume.sums import Sums, parse, unlisted
from gateway.volume.watch import Watcher

PERIOD: Final = 5.0
READ: Final = (".json", ".txt", ".model", ".jinja", ".codes", ".xml", ".md")  # what is read to reach a verdict
SMALL: Final = 64 * 1024  # and whatever has no more bytes than this
HEAD: Final = 64 * 1024  # of weights; more where their header says so
LARGEST_HEAD: Final = 16 * 1024**2
ALIASES: Final = "aliases.toml"
ALIASES_CAP: Final = 1024**2
REF: Final = "/refs/main"  # of a Hub cache: it says which snapshot is meant
KEEP_SECONDS: Final = 600.0
PARTS: Final = ".parts"
OPENED: Final = ".opened"
CLOUD: Final = "bucket"  # the folder of the state directory

Tell = Callable[[events.Event], None]


class BucketVolume:
    """`tell` is called on whatever thread fetches. Blocking; the follower's lane looks while others fetch."""

    way: Literal["events", "polling"] = "polling"
    shared = True
    period = PERIOD

    def __init__(self, settings: Settings, tell: Tell) -> None:
        """Raises SettingsError where the extra is missing."""
        self.place = settings.models_dir
        self.kind = "s3"
        self._above = os.path.join(os.path.realpath(settings.state_dir), CLOUD)
        self.root = os.path.join(self._above, hashlib.sha256(self.place.encode()).hexdigest()[:16])
        self.objects = Objects(self.place)
        self._parts = Parts(os.path.join(self.root, PARTS), self.objects)
        self._outline = Outline(self.root)
        self._tell = tell
        self._allow_pickle = settings.allow_pickle
        self._kept = 0.0  # monotonic: when what was fetched was last sifted
        self._origins: dict[str, str] = {}  # of what is open
        self.sums: Sums = FetchedSums(self.root, self.digest)

    def begin(self) -> None:
        """Before anything else: without what an earlier run left open, and what it had of another bucket. Raises
        OSError."""
        self._parts.open()
        shutil.rmtree(os.path.join(self.root, OPENED), ignore_errors=True)
        for name in os.listdir(self._above):
            if name != os.path.basename(self.root):
                shutil.rmtree(os.path.join(self._above, name), ignore_errors=True)

    def close(self) -> None:
        self._parts.close()

    # For the follower.

    def scan(self) -> Scan:
        """Raises VolumeUnreadable where the bucket does not say what it has."""
        try:
            listed = self.objects.list()
            changed = self._outline.match(listed, self._content)
            if changed or time.monotonic() - self._kept > KEEP_SECONDS:
                self._parts.keep(self._outline.objects)
                self._kept = time.monotonic()
        except (Unreachable, Forbidden, Gone) as error:
            raise VolumeUnreadable(self.place, OSError(errno.EIO, str(error))) from error
        except OSError as error:  # of the node's own disk
            raise VolumeUnreadable(self.place, error) from error
        self._tidy()
        found = scan(self.root)
        return msgspec.structs.replace(found, ignored=(*found.ignored, *self._outline.refused))

    def evidence(self) -> Evidence:
        return ListedEvidence(self.proven)

    def watcher(self, on_hint: Callable[[], None]) -> Watcher | None:
        """A bucket says nothing by itself."""
        return None

    def _content(self, found: Object) -> bytes | None:
        """Of what a look reads itself."""
        read = found.path == ALIASES and found.size <= ALIASES_CAP
        read = read or (found.path.endswith(REF) and found.size <= SMALL)
        return b"".join(self.objects.read(found)) if read else None

    # For whoever judges.

    def open(self, directory: Directory) -> Directory:
        """The same directory, with what a verdict can be reached from. Until `shut`. Raises Changed and Refused."""
        if directory.error:
            return directory
        place = os.path.join(self.root, OPENED, secrets.token_hex(8), os.path.basename(directory.path))
        self._origins[place] = directory.path
        try:
            self._fill(directory, place)
        except BaseException:
            del self._origins[place]
            raise
        return self._at(directory, place)

    def _fill(self, directory: Directory, place: str) -> None:
        with self._translated(directory):
            wanted = {file.path: self._object(directory.path, file.path) for file in directory.files}
            small = {path: each for path, each in wanted.items() if self._is_read(path, each, wanted)}
            self._parts.fetch_all(small.values())
            for path, each in wanted.items():
                target = os.path.join(place, path)
                with storing():
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                if path in small or self._parts.digest(each) is not None:
                    self._parts.link(each, target)
                else:
                    self._hollow(each, target)

    def shut(self, directory: Directory) -> None:
        """What `open` answered; the next look tidies up."""
        self._origins.pop(directory.path, None)

    # For the store.

    def look(self, directory: Directory) -> Directory | None:
        """What is open, as the bucket has it now."""
        return directories.read(directory.model, self._origin(directory.path), self.root, directory.apart)

    def around(self, directory: Directory) -> Directory | None:
        """What is open, without what is nested in it."""
        origin = self._origin(directory.path)
        apart = directory.apart | {os.path.basename(origin)}
        found = directories.read(directory.model, origin, self.root, apart)
        return self._at(found, directory.path) if found else None

    def bring(self, directory: Directory, names: Sequence[str]) -> None:
        """Fetches these files of what is open, and what its SHA256SUMS lists, several at a time; tells how far it is.
        Raises Changed and Refused."""
        with self._translated(directory):
            listed = self._listed(directory)
            wanted = {name: self._object(self._origin(directory.path), name) for name in {*names, *listed}}
            missing = [each for each in wanted.values() if self._parts.digest(each) is None]
            total = sum(each.size for each in missing)
            if missing:
                progress = Progress(directory.model.path, total, self._tell)
                self._parts.fetch_all(missing, progress)

    def take(self, directory: Directory, name: str, target: str) -> tuple[int, str]:
        """One file of what is open into the store, as a second name of what was fetched; -> its size and SHA-256.
        Raises Changed and Refused."""
        with self._translated(directory):
            found = self._object(self._origin(directory.path), name)
            return found.size, self._parts.link(found, target)

    def let_go(self, digests: Collection[str]) -> None:
        """Forgets what was fetched and has one of these SHA-256, unless the store is made of it."""
        self._tidy()  # what is shut has names of it too
        self._parts.forget(digests)

    def digest(self, directory: Directory, name: str, *, fetch: bool) -> str | None:
        """The SHA-256 of a file of what is open. Raises Changed and Refused."""
        with self._translated(directory):
            found = self._object(self._origin(directory.path), name)
            return self._parts.fetch(found) if fetch else self._parts.digest(found)

    def proven(self, directory: Directory) -> bool:
        """Whether all that its SHA256SUMS lists is there, and nothing that came after it: whether this is the content
        that is listed shows when it has been fetched. Of a directory that is not open."""
        sums = self._outline.object(self._path(directory.path, SUMS))
        if sums is None:
            return False
        others = [self._outline.object(self._path(directory.path, file.path)) for file in directory.files]
        if any(each is None or each.modified > sums.modified for each in others):
            return False
        with suppress(Unreachable, Forbidden, Gone, Unfit, Refused):
            listed = parse(self._parts.head(sums, ALIASES_CAP))
            return listed.keys() <= {file.path for file in directory.files} and not unlisted(directory, listed)
        return False

    # Parts of these.

    def _tidy(self) -> None:
        """Without what is not open any more."""
        opened = os.path.join(self.root, OPENED)
        with suppress(FileNotFoundError):
            there = set(os.listdir(opened))  # before it is asked what is open: what is being opened is among that
            names = {os.path.basename(os.path.dirname(place)) for place in list(self._origins)}
            for name in there - names:
                shutil.rmtree(os.path.join(opened, name), ignore_errors=True)

    def _listed(self, directory: Directory) -> set[str]:
        if directory.file(SUMS) is None:
            return set()
        with suppress(Unfit, OSError), open(os.path.join(directory.path, SUMS), "rb") as stream:
            return parse(stream.read(ALIASES_CAP)).keys() & {file.path for file in directory.files}
        return set()

    def _is_read(self, path: str, found: Object, wanted: dict[str, Object]) -> bool:
        """Whether a verdict needs all of it: a zip of pickles has its table at its end."""
        if found.size <= SMALL or (path.endswith(READ) and found.size <= TOKENIZER_CAP):
            return True
        safe = any(other.endswith(".safetensors") for other in wanted)
        return self._allow_pickle and path.endswith(".bin") and not safe

    def _hollow(self, found: Object, target: str) -> None:
        """A file of its size, which has the beginning alone, and of safetensors the whole header."""
        head = b""
        if found.path.endswith(".safetensors"):
            head = self._parts.head(found, HEAD)
            length = struct.unpack("<Q", head[:8])[0] + 8 if len(head) >= 8 else 0
            if len(head) < length <= LARGEST_HEAD + 8:
                head = self._parts.head(found, length)
        with storing(), open(target, "xb") as stream:
            stream.write(head[: found.size])
            stream.truncate(found.size)

    def _at(self, directory: Directory, place: str) -> Directory:
        """As if it lay at `place`, with the bucket's own dates."""
        nested = directory.nested
        if nested is not None:
            nested = self._at(nested, os.path.join(place, os.path.basename(nested.path)))
        files = tuple(_dated(file) for file in directory.files)
        return msgspec.structs.replace(directory, path=place, files=files, nested=nested)

    def _origin(self, path: str) -> str:
        """Where in the outline lies what is open at `path`."""
        for place, origin in self._origins.copy().items():  # other threads open and shut meanwhile
            if _is_in(path, place):
                return origin + path[len(place) :]
        return path

    def _object(self, folder: str, name: str) -> Object:
        found = self._outline.object(self._path(folder, name))
        if found is None:
            raise Gone(f"{name} is there no more")
        return found

    def _path(self, folder: str, name: str) -> str:
        return os.path.relpath(os.path.join(folder, name), self.root)

    @contextmanager
    def _translated(self, directory: Directory) -> Iterator[None]:
        try:
            yield
        except Gone as error:
            raise Changed(directory.model.path) from error
        except Unreachable as error:
            raise Refused((reasons.reason("bucket_unreachable", str(error)),)) from error
        except Forbidden as error:
            raise Refused((reasons.reason("bucket_forbids", str(error)),)) from error


def _dated(file: FileStat) -> FileStat:
    """When an object came is what the outline's file was given as its date."""
    return msgspec.structs.replace(file, ctime_ns=file.mtime_ns)


def _is_in(path: str, place: str) -> bool:
    return path == place or path.startswith(place + "/")
