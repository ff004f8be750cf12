"""The audit log: one JSON line for each use and change, in order, in a file that is only appended to.

Lines are collected on the event loop and written by a lane of one thread, as many at once as have come meanwhile. A
disk that is full or broken costs lines and never a request: how many is told, and the next are tried soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import Any, Final

import msgspec

from gateway import events
from gateway.lane import Lane

MOST_WAITING: Final = 64 * 1024**2  # bytes that wait for the disk
PAUSE: Final = 1.0  # seconds between tries of a disk that fails
MODE: Final = 0o600


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`time` is UTC in ISO 8601; `tenant` and `key` are missing without keys; `path` is as the client wrote it, `route`
    the route that it fits. `status` 499: the client went before it was answered."""

    time: str
    request_id: str
    remote: str
    method: str
    route: str
    path: str
    status: int
    seconds: float
    tenant: str = ""
    key: str = ""
    model: str | None = None
    generation: str | None = None
    alias: str | None = None
    texts: int = 0
    tokens: int = 0
    code: str | None = None
    inputs: list[Any] | None = None


class AuditFile:
    """`path`, `path.1` and so on, `files` of them, each of `limit` bytes, or of one batch that is larger. Blocking."""

    def __init__(self, path: str, limit: int, files: int) -> None:
        self._path = path
        self._limit = limit
        self._files = files

    def append(self, lines: bytes) -> None:
        """All or nothing: half a line would spoil the next one. Raises OSError. The file is opened anew each time, so
        that it may be moved away."""
        with contextlib.suppress(FileNotFoundError):  # the first
            size = os.stat(self._path).st_size
            if size and size + len(lines) > self._limit:
                self._rotate()
        descriptor = self._open()
        try:
            self._write(descriptor, lines, os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)

    def _write(self, descriptor: int, lines: bytes, size: int) -> None:
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise

    def _rotate(self) -> None:
        names = [self._path, *(f"{self._path}.{number}" for number in range(1, self._files))]
        if len(names) == 1:
            os.unlink(self._path)
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            if os.path.exists(newer):
                os.replace(newer, older)


class Audit:
    """Owned by the event loop, but for what the lane writes."""

    def __init__(self, file: AuditFile, tell: events.Events, pause: float = PAUSE) -> None:
        self._file = file
        self._events = tell
        self._pause = pause
        self._lane = Lane("audit")
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._lost = 0
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def add(self, line: Line) -> None:
        if self._bytes >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(_encoded(line))
        self._bytes += len(self._waiting[-1])
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_all())

    async def close(self) -> None:
        """Writes what waits. Nothing is added after it."""
        self._closing.set()
        if self._writing is not None:
            await self._writing
        self._lane.close()

    async def _write_all(self) -> None:
        while self._waiting or self._lost:
            if not await self._write():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self._pause)

    async def _write(self) -> bool:
        """One batch; -> whether the disk took it."""
        batch, self._waiting, self._bytes = self._waiting, [], 0
        lost, self._lost = self._lost, 0
        message = ""
        try:
            await self._lane.run(self._file.append, b"\n".join([*batch, b""]))
        except OSError as error:
            lost, message = lost + len(batch), str(error)
        if lost:
            self._events.emit(events.AuditLost(lines=lost, message=message or "more came than the disk took"))
        return not message


def _encoded(line: Line) -> bytes:
    """Whatever a client has written."""
    try:
        return msgspec.json.encode(line)
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(msgspec.to_builtins(line)).encode()
