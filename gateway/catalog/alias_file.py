"""The aliases in force: read from the volume whenever the file changes, and remembered over restarts.

Whatever is wrong with the file, the last good table goes on. A table that names what is not there yet is taken as soon
as it is.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from gateway import events
from gateway.catalog.alias_edit import Pointer, edited
from gateway.catalog.aliases import FILE, Alias, AliasFault, Table, check, parse
from gateway.lane import Lane
from gateway.model import ModelId, ModelRef
from gateway.volume.files import read_capped
from gateway.volume.reasons import Unfit
from gateway.volume.tables import CAP

SETTLE: Final = 0.3  # seconds for which the file must not have changed: half a table may parse
TRIES: Final = 200  # to write it, while others do
PAUSE: Final = 0.05  # seconds between two of them


class Unsettled(Exception):
    """The file changed a moment ago: look again soon."""


class AliasFile:
    """The file on the volume, and a copy in the state directory of the last one that was taken. Blocking."""

    def __init__(self, root: str, state_dir: str) -> None:
        self._root = root
        self._path = os.path.join(root, FILE)
        self._copy = os.path.join(state_dir, FILE)
        self._seen: tuple[int, ...] | None = ()

    def changed(self) -> bytes | None:
        """The content, when the file is another than at the last call; nothing at all (b"") when there is none.
        Raises Unsettled, and AliasFault for what the operating system or its size forbids."""
        if not os.path.isdir(self._root):
            return None  # the volume is away: nothing is known
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            seen, self._seen = self._seen, None
            return None if seen is None else b""
        except OSError as error:
            raise AliasFault(f"{FILE}: {error.strerror}") from error
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)
        if stamp == self._seen:
            return None
        if 0 <= time.time() - found.st_ctime < SETTLE:
            raise Unsettled
        try:
            content = read_capped(self._path, self._root, CAP)
        except Unfit as error:
            raise AliasFault(error.reason.message) from error
        self._seen = stamp  # only now: what could not be read is read at the next call
        return content

    def text(self) -> str:
        """As it is now; nothing when there is none. Raises OSError, and AliasFault where it is no text."""
        try:
            return read_capped(self._path, self._root, CAP).decode()
        except Unfit as error:
            if error.reason.code in {"file_missing", "link_broken"}:
                return ""
            raise OSError(errno.EINVAL, error.reason.message) from error
        except UnicodeDecodeError as error:
            raise AliasFault(f"{FILE}: {error}") from error

    def replace(self, before: str, text: str) -> bool:
        """In one step, and only if it is still what it was `before` and nobody is editing it, who has the directory's
        lock then. Raises OSError; the file is then as it was."""
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        draft = os.path.join(self._root, f".{FILE}.{secrets.token_hex(4)}")
        try:
            if not _lock(folder) or self.text() != before:
                return False
            with open(draft, "xb") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, self._path)
            return True
        finally:
            os.close(folder)
            with suppress(OSError):
                os.unlink(draft)

    def last_good(self) -> bytes:
        with suppress(OSError), open(self._copy, "rb") as stream:
            return stream.read(CAP)
        return b""

    def keep(self, content: bytes) -> None:
        """Raises OSError; the old copy stays when it does."""
        with open(self._copy + ".partial", "wb") as stream:
            stream.write(content)
        os.replace(self._copy + ".partial", self._copy)


def _lock(folder: int) -> bool:
    """False where somebody else has it."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: then nobody else should edit
        pass
    return True


class Aliases:
    """`known` says what is wrong with a target that is no alias, or None, once the volume was `looked` at. The event
    loop owns the table."""

    def __init__(
        self,
        root: str,
        file: AliasFile,
        tell: events.Events,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        look_again: Callable[[ModelId | None], None],
        known: Callable[[ModelRef], str | None],
        looked: asyncio.Event,
    ) -> None:
        self.table: Table = {}
        self.read = asyncio.Event()  # the file was looked at once
        self._root = root
        self._file = file
        self._events = tell
        self._spawn = spawn
        self._look_again = look_again
        self._known = known
        self._looked = looked
        self._lane = Lane("aliases")
        self._reading = False
        self._waiting: tuple[bytes, dict[ModelId, Alias]] | None = None  # parses, and names what is not there
        self._told = ""

    async def restore(self) -> None:
        """The last table that was taken, before the volume is looked at."""
        with suppress(AliasFault):
            self.table = parse(await self._lane.run(self._file.last_good), self._root)

    def look(self) -> None:
        """Reads the file if it has changed, in the background; takes a table that can be taken now."""
        if self._waiting is not None:
            self._offer(*self._waiting)
        if not self._reading:
            self._reading = True
            self._spawn(self._look())

    async def point(self, name: str, pointer: Pointer) -> None:
        """Writes one alias into the file, which is otherwise left as it is, and takes the table at once. Raises
        AliasFault, and OSError where the volume cannot be written, or others do for too long; nothing has changed
        then."""
        for _ in range(TRIES):
            before = await self._lane.run(self._file.text)
            made = edited(before, name, pointer)
            table = parse(made.encode(), self._root)
            check(table, self._known)
            if await self._lane.run(self._file.replace, before, made):
                self._offer(made.encode(), table)
                return
            await asyncio.sleep(PAUSE)
        raise OSError(errno.EBUSY, "somebody else is editing it; try again")

    async def _look(self) -> None:
        try:
            found = await self._lane.run(self._read)
            if found is not None:
                self._offer(*found)
            self._done()
        except Unsettled:
            self._look_again(None)
        except AliasFault as fault:
            self._waiting = None
            self._reject(str(fault))
            self._done()
        finally:
            self._reading = False

    def _read(self) -> tuple[bytes, dict[ModelId, Alias]] | None:
        content = self._file.changed()
        return None if content is None else (content, parse(content, self._root))

    def _done(self) -> None:
        if not self.read.is_set():
            self.read.set()
            self._look_again(None)

    def _offer(self, content: bytes, table: dict[ModelId, Alias]) -> None:
        self._waiting = (content, table)
        if not self._looked.is_set():
            return  # nobody knows yet what is there
        try:
            check(table, self._known)
        except AliasFault as fault:
            self._reject(str(fault))
            return
        self._waiting, self._told = None, ""
        if table == self.table:
            return
        before, self.table = self.table, table
        self._events.emit(
            events.AliasesChanged(
                aliases=tuple(sorted(name.path for name in table)),
                removed=tuple(sorted(name.path for name in before.keys() - table.keys())),
            )
        )
        self._spawn(self._keep(content))

    async def _keep(self, content: bytes) -> None:
        try:
            await self._lane.run(self._file.keep, content)
        except OSError as error:
            self._events.emit(events.Notice(code="aliases_not_kept", message=str(error)))

    def _reject(self, message: str) -> None:
        """Told once for each thing that is wrong."""
        if message != self._told:
            self._told = message
            self._events.emit(events.AliasesRejected(message=message))
