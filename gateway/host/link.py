"""One end of the socket between the gateway and a host, as frames of `wire`.

What is sent in one turn of the loop leaves in one write. A payload is read from the socket into memory of its own, and
a large one is never copied.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final, Generic, TypeVar, cast

import msgspec

from gateway.host import wire

HEAD: Final = struct.Struct("<II")
MAX_FRAME: Final = 1 << 30
READ: Final = 1 << 18  # bytes that one read takes at most; no socket pair hands over more
LARGE: Final = 1 << 16  # bytes from which on a payload is not copied

M = TypeVar("M")


class Frame(Generic[M]):
    """A frame whose payload is still being read: `rest` is the part that is missing."""

    __slots__ = ("message", "payload", "rest")

    def __init__(self, message: M, payload: bytearray, rest: memoryview) -> None:
        self.message = message
        self.payload = payload
        self.rest = rest


class Link(asyncio.BufferedProtocol, Generic[M]):
    """One end of the socket. `on_frame` is called with each message and its payload, `on_lost` once when the other
    end is gone; both must be set before the first byte comes."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M], on_lost: Callable[[], None] = lambda: None) -> None:
        self._decoder = decoder
        self.on_frame: Callable[[M, wire.Payload], None] = lambda message, payload: None
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer = memoryview(bytearray(READ))
        self._filled = 0  # bytes of the buffer that are of a frame not yet whole
        self._large: Frame[M] | None = None  # a frame whose payload is on its way
        self._unsent: list[bytes | memoryview] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=MAX_FRAME)  # the queue before us is bounded, so this is too

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: never empty."""
        return self._large.rest if self._large is not None else self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._large is not None:
            self._large.rest = self._large.rest[nbytes:]
            if not self._large.rest:
                whole, self._large = self._large, None
                self.on_frame(whole.message, whole.payload)
            return
        end, start = self._filled + nbytes, 0
        while (step := self._frame(start, end)) > 0:
            start += step
        left = end - start
        if start and left:
            self._buffer[:left] = bytes(self._buffer[start:end])
        self._filled = left
        if left == len(self._buffer):  # a header that fills it: a request of many texts
            self._buffer = memoryview(bytearray(self._buffer) + bytes(left))
        elif not left and len(self._buffer) > READ:
            self._buffer = memoryview(bytearray(READ))

    def _frame(self, start: int, end: int) -> int:
        """Takes the frame that begins at `start`, and answers how many bytes it took of those before `end`; 0 where
        more must come first."""
        if end - start < HEAD.size:
            return 0
        header: int
        size: int
        header, size = HEAD.unpack_from(self._buffer, start)
        if header + size > MAX_FRAME:
            raise ValueError(f"a frame of {header + size} bytes")
        begin = start + HEAD.size
        middle = begin + header
        if end < middle or (size < LARGE and end < middle + size):
            return 0
        message = self._decoder.decode(self._buffer[begin:middle])
        if end < middle + size:
            payload = bytearray(size)
            view = memoryview(payload)
            view[: end - middle] = self._buffer[middle:end]
            self._large = Frame(message, payload, view[end - middle :])
            return end - start
        self.on_frame(message, bytes(self._buffer[middle : middle + size]))
        return HEAD.size + header + size

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._unsent.clear()
        self._on_lost()

    def send(self, message: wire.Command | wire.Report, payload: bytes | memoryview = b"") -> None:
        """Sends one frame by the end of this turn of the loop; does nothing once the other end is gone (`on_lost` has
        told). A large payload must not change until it has left."""
        if self._transport is None or self._transport.is_closing():
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self.flush)
        header, body = wire.encoder.encode(message), memoryview(payload)
        head = HEAD.pack(len(header), body.nbytes)
        if body.nbytes < LARGE:
            self._unsent.append(b"".join((head, header, body)))
        else:
            self._unsent += (head + header, body)

    def flush(self) -> None:
        """Writes what was sent since the last time."""
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(unsent)

    def close(self) -> None:
        """What was sent still leaves."""
        if self._transport is not None:
            self.flush()
            self._transport.close()
