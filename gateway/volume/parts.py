"""Objects that were fetched, as files on this node's disk: whole, synced and read-only under a name that holds their
SHA-256, or `.part` as far as they have come. Whatever ends a fetch, the next one goes on from there.

What a generation is made of is linked from here, not copied: the disk holds it once.

    <folder>/<id>.<sha256>     id: of the path, the size and the ETag, so that another object is another file
    <folder>/<id>.part
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

from gateway.lane import Lane
from gateway.volume import reasons
from gateway.volume.copying import Refused, storing, write_all
from gateway.volume.objects import Gone, Object, Objects, Unreachable

AT_ONCE: Final = 4  # objects that are fetched at a time, on the whole node
SPARE_BYTES: Final = 16 * 1024**2
BLOCK: Final = 4 * 1024**2
FORGOTTEN: Final = 3600.0  # seconds after which what no generation is made of is let go
LARGE: Final = 1024**2  # bytes; what is smaller is kept as long as the bucket has it
BOOT: Final = ".boot"
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"

Tell = Callable[[int], None]  # so many bytes have come


class Parts:
    """`folder` is on the disk of the store, and is used by nobody else. Blocking; threads may share it, as long as
    each object is asked for by one of them."""

    def __init__(self, folder: str, objects: Objects) -> None:
        self._folder = folder
        self._objects = objects
        self._lane = Lane("fetch", AT_ONCE)
        self._known: dict[str, str] = {}
        self._ended = False

    def open(self) -> None:
        """Raises OSError."""
        os.makedirs(self._folder, exist_ok=True)
        self._forget_halves_of_another_boot()
        named = (name.partition(".") for name in os.listdir(self._folder))
        self._known = {found: digest for found, _, digest in named if found and digest != "part"}

    def _forget_halves_of_another_boot(self) -> None:
        """What was not synced when the machine went down may be anything."""
        mark, boot = os.path.join(self._folder, BOOT), _boot()
        with suppress(OSError), open(mark, encoding="ascii") as stream:
            if boot and stream.read() == boot:
                return
        for name in os.listdir(self._folder):
            if name.endswith(".part"):
                os.unlink(os.path.join(self._folder, name))
        with open(mark, "w", encoding="ascii") as stream:
            stream.write(boot)

    def close(self) -> None:
        """Ends what is being fetched, which stays for the next start."""
        self._ended = True
        self._lane.close(wait=False)

    def digest(self, wanted: Object) -> str | None:
        """The SHA-256 of an object that is here."""
        return self._known.get(_id(wanted))

    def link(self, wanted: Object, target: str) -> str:
        """Gives the object's file, which is fetched if need be, the name `target` too; -> its SHA-256. Raises as
        `fetch`, and Refused where the folder of `target` is not there."""
        while True:
            digest = self.fetch(wanted)
            with storing():
                try:
                    os.link(self._path(wanted, digest), target)
                except FileNotFoundError:  # let go by the sweeping, or by somebody who tidied up
                    if not os.path.isdir(os.path.dirname(target)):
                        raise  # which no fetch heals
                    self._known.pop(_id(wanted), None)
                    continue
            return digest

    def fetch_all(self, wanted: Collection[Object], tell: Tell = lambda _: None) -> None:
        """Those that are not here yet, several at a time. Raises as `fetch`, and Refused where there is no room."""
        missing = [each for each in wanted if self.digest(each) is None]
        needed = sum(each.size - self._come(each) for each in missing) + SPARE_BYTES
        with storing():
            free = shutil.disk_usage(self._folder).free
        if missing and needed > free:
            message = f"the copy needs {needed:,} bytes more; the state directory's disk has {free:,} free"
            raise Refused((reasons.reason("disk_full", message),))
        self._lane.map(lambda each: self.fetch(each, tell), sorted(missing, key=lambda each: each.size))

    def fetch(self, wanted: Object, tell: Tell = lambda _: None) -> str:
        """The whole object; -> its SHA-256. Raises Unreachable, Forbidden, Gone, and Refused for what the disk says."""
        if (known := self.digest(wanted)) is not None:
            return known
        part = self._path(wanted, "part")
        with storing():
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            digest = self._fill(descriptor, wanted, tell)
            with storing():
                os.fchmod(descriptor, 0o444)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with storing():
            try:
                os.rename(part, self._path(wanted, digest))
            except FileNotFoundError as error:
                raise Gone(f"{wanted.path} is another object by now") from error
        self._known[_id(wanted)] = digest
        return digest

    def head(self, wanted: Object, count: int) -> bytes:
        """The first bytes, from the disk where they are there. Raises as `fetch`."""
        if (digest := self.digest(wanted)) is not None:
            with suppress(OSError), open(self._path(wanted, digest), "rb") as stream:
                return stream.read(count)
        return b"".join(self._objects.read(wanted, 0, min(count, wanted.size)))

    def keep(self, wanted: Sequence[Object]) -> None:
        """Lets go of all else: other objects' files, and large ones that no generation was made of for an hour."""
        names = {_id(each): each for each in wanted}
        now = time.time()
        with os.scandir(self._folder) as found:
            for entry in found:
                if entry.name == BOOT:
                    continue
                known = names.get(entry.name.partition(".")[0])
                with suppress(OSError):
                    if known is None or (known.size > LARGE and _is_idle(entry, now)):
                        self._known.pop(entry.name.partition(".")[0], None)
                        os.unlink(entry.path)

    def forget(self, digests: Collection[str]) -> None:
        """Objects with one of these SHA-256 that nothing else is a name of."""
        for found, digest in list(self._known.items()):
            path = os.path.join(self._folder, f"{found}.{digest}")
            with suppress(OSError):
                if digest in digests and os.stat(path).st_nlink == 1:
                    self._known.pop(found, None)
                    os.unlink(path)

    def _fill(self, descriptor: int, wanted: Object, tell: Tell) -> str:
        """Goes on from what is there, as often as some of the rest comes."""
        digest, size = _hashed(descriptor, wanted.size)
        tell(size)
        while size < wanted.size:
            before = size
            try:
                for block in self._objects.read(wanted, size):
                    self._must_go_on()
                    write_all(descriptor, block)
                    digest.update(block)
                    size += len(block)
                    tell(len(block))
            except Unreachable:
                if size == before or self._ended:
                    raise
            if size == before:
                raise Unreachable(f"{wanted.path} came with {size:,} of {wanted.size:,} bytes")
        if size > wanted.size:
            os.ftruncate(descriptor, 0)
            raise Gone(f"{wanted.path} has more bytes than were listed")
        return digest.hexdigest()

    def _must_go_on(self) -> None:
        if self._ended:
            raise Unreachable("the gateway stops")

    def _come(self, wanted: Object) -> int:
        with suppress(OSError):
            return min(wanted.size, os.stat(self._path(wanted, "part")).st_size)
        return 0

    def _path(self, wanted: Object, end: str) -> str:
        return os.path.join(self._folder, f"{_id(wanted)}.{end}")


def _boot() -> str:
    with suppress(OSError), open(BOOT_ID, encoding="ascii") as stream:
        return stream.read().strip()
    return ""


def _id(wanted: Object) -> str:
    text = f"{wanted.path}\0{wanted.size}\0{wanted.etag}"
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _hashed(descriptor: int, most: int) -> tuple[hashlib._Hash, int]:
    """Of what is there, which ends where writing goes on."""
    digest = hashlib.sha256()
    with storing():
        if os.fstat(descriptor).st_size > most:
            os.ftruncate(descriptor, 0)
        while block := os.read(descriptor, BLOCK):
            digest.update(block)
        return digest, os.lseek(descriptor, 0, os.SEEK_CUR)


def _is_idle(entry: os.DirEntry[str], now: float) -> bool:
    found = entry.stat(follow_symlinks=False)
    return found.st_nlink == 1 and now - found.st_ctime > FORGOTTEN
