"""The gateway's side of reading documents: a few processes, each with one document at a time, and killed when that
takes too long. Started when first needed, ended when nothing was read for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.ask.chunks import Chunking, is_markdown
from gateway.ask.parse import LENGTH, Answer, Cut, Order, Pieces, Read, Refused, Text
from gateway.errors import DocumentTooLarge, DocumentUnreadable, Overloaded

COMMAND: Final = (sys.executable, "-m", "gateway.ask.parse")
AT_ONCE: Final = 2  # so that one document that takes its whole time holds nobody else up
IDLE_SECONDS: Final = 60.0
SECONDS: Final = 60.0  # that one document may take
RETRY_AFTER: Final = 2.0  # seconds, where there is no room for a process
MOST_CHARACTERS: Final = 20_000_000
BUFFER: Final = 2**20
MOST_ANSWER: Final = 256 * 1024**2  # bytes

_answers: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)


class Parser:
    """Safe to be asked by any number of tasks at once. `seconds` are for one document."""

    def __init__(
        self,
        *,
        most_bytes: int,
        most_characters: int = MOST_CHARACTERS,
        seconds: float = SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.most_bytes = most_bytes
        self._most_characters = most_characters
        self._seconds = seconds
        self._idle_seconds = idle_seconds
        self._command = command
        self._room = asyncio.Semaphore(AT_ONCE)
        self._idle: list[asyncio.subprocess.Process] = []
        self._rest: asyncio.TimerHandle | None = None

    async def read(self, name: str, content: bytes, media: str = "") -> Text:
        """Normalised text and its pages. Raises DocumentUnreadable or DocumentTooLarge, or Overloaded."""
        if len(content) > self.most_bytes:
            raise too_large(self.most_bytes)
        answer = await self._ask(Read(name, content, media, self._most_characters))
        assert isinstance(answer, Text)
        return answer

    async def cut(self, name: str, text: str, chunking: Chunking) -> Pieces:
        """Where the chunks of a document's text lie. Raises DocumentUnreadable or Overloaded."""
        answer = await self._ask(Cut(text, is_markdown(name), chunking))
        assert isinstance(answer, Pieces)
        return answer

    async def close(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        await asyncio.gather(*map(_end, self._take()))

    async def _ask(self, order: Order) -> Answer:
        async with self._room:
            rested = self._rested()
            try:
                answer = await self._exchange(rested or await self._start(), order)
            except (OSError, EOFError) as error:
                if rested is None:
                    raise _crashed() from error
                answer = await self._again(order)  # it may have died while it rested, which is not the document's fault
        if isinstance(answer, Refused):
            raise answer.error()
        return answer

    async def _again(self, order: Order) -> Answer:
        try:
            return await self._exchange(await self._start(), order)
        except (OSError, EOFError) as error:
            raise _crashed() from error

    async def _exchange(self, process: asyncio.subprocess.Process, order: Order) -> Answer:
        """Raises DocumentUnreadable when it takes too long, and OSError or EOFError when the process ends."""
        whole = False
        try:
            async with asyncio.timeout(self._seconds):
                answer = await _exchange(process, order)
            whole = True
        except TimeoutError as error:
            raise DocumentUnreadable(f"reading it takes longer than {self._seconds:g} s") from error
        finally:  # also where whoever asked has gone: what it was doing is nobody's now
            if whole:
                self._idle.append(process)
            else:
                await asyncio.shield(_end(process))
            self._rest_later()
        return answer

    def _rested(self) -> asyncio.subprocess.Process | None:
        """One that has read before, and lives as far as is known."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        return None

    async def _start(self) -> asyncio.subprocess.Process:
        """Raises Overloaded where the operating system gives no process: no document is to blame."""
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=BUFFER,
            )
        except OSError as error:
            message = f"no process can be started to read documents: {error.strerror}"
            raise Overloaded(message, retry_after=RETRY_AFTER) from error

    def _take(self) -> list[asyncio.subprocess.Process]:
        taken, self._idle = self._idle, []
        return taken

    def _rest_later(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._rest = asyncio.get_running_loop().call_later(self._idle_seconds, self._sleep)

    def _sleep(self) -> None:
        for process in self._take():
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # the loop's child watcher reads its status


def _crashed() -> DocumentUnreadable:
    return DocumentUnreadable("reading it crashed the library that reads such files")


def too_large(most: int) -> DocumentTooLarge:
    return DocumentTooLarge(f"a document has at most {most:,} bytes", limit=most)


async def _exchange(process: asyncio.subprocess.Process, order: Order) -> Answer:
    """Raises OSError or EOFError where the process has ended, or talks nonsense."""
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018  # both are pipes
    encoded = msgspec.msgpack.encode(order)
    process.stdin.write(len(encoded).to_bytes(LENGTH, "big") + encoded)
    await process.stdin.drain()
    length = int.from_bytes(await process.stdout.readexactly(LENGTH), "big")
    if length > MOST_ANSWER:
        raise EOFError(f"an answer of {length} bytes")
    try:
        return _answers.decode(await process.stdout.readexactly(length))
    except msgspec.DecodeError as error:
        raise EOFError(str(error)) from error


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
