"""What the gateway and a host say to each other, over a Unix socket pair.

A frame is two little-endian u32 (bytes of the header, bytes of the payload), the header as MessagePack, and the
payload: vectors as raw little-endian float32, row-major, and nothing else. No pickle, no lists of floats. A host is
told of a generation once (`Offer`); after that its digest names it. No torch here: the gateway imports this module.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from gateway.errors import GatewayError, Internal, leaves
from gateway.model import Generation

HEAD: Final = struct.Struct("<II")
MAX_FRAME: Final = 1 << 30


class Options(msgspec.Struct, frozen=True):
    """How the texts of one request become vectors. `prompt` stands before every text."""

    normalize: bool | None = None
    truncate: bool = True
    prompt: str = ""
    dimensions: int | None = None


class Offer(msgspec.Struct, frozen=True, tag=True):
    """This generation may be asked for from now on."""

    generation: Generation


class Embed(msgspec.Struct, frozen=True, tag=True):
    """`alone`: it, or the load it waits for, has the host to itself, since it was at work when a host died."""

    id: int
    digest: str
    texts: list[str]
    options: Options
    alone: bool = False


class Load(msgspec.Struct, frozen=True, tag=True):
    id: int
    digest: str
    alone: bool = False


class Unload(msgspec.Struct, frozen=True, tag=True):
    id: int
    digest: str


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """The client of request `id` has gone: its waiting ends, and nothing else."""

    id: int


class Keep(msgspec.Struct, frozen=True, tag=True):
    """All that may stay: what is not `live` is retired; what is `pinned` is never evicted."""

    live: list[str]
    pinned: list[str]


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The host's first word. `budget` in bytes."""

    device: str
    budget: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """The vectors of request `id` are the payload: float32 [rows, dim]. Times in seconds."""

    id: int
    rows: int = 0
    dim: int = 0
    tokens: int = 0
    load_seconds: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


class Failed(msgspec.Struct, frozen=True, tag=True):
    id: int
    code: str
    message: str
    retry_after: float | None = None
    details: dict[str, Any] = {}

    @classmethod
    def of(cls, request: int, error: GatewayError) -> Failed:
        return cls(request, error.code, error.message, error.retry_after, error.details)

    def error(self) -> GatewayError:
        return leaves().get(self.code, Internal)(self.message, retry_after=self.retry_after, **self.details)


class Resident(msgspec.Struct, frozen=True):
    """A generation as the host's pool sees it. `state` is waiting, loading, loaded or leaving."""

    digest: str
    state: str
    bytes: int
    leases: int
    pinned: bool
    idle_seconds: float


class Residency(msgspec.Struct, frozen=True, tag=True):
    """The pool after a change, and the host's counters since it started."""

    residents: list[Resident]
    used: int
    budget: int
    queue_tokens: int
    resident_memory: int


class Loaded(msgspec.Struct, frozen=True, tag=True):
    digest: str
    bytes: int
    seconds: float


class Unloaded(msgspec.Struct, frozen=True, tag=True):
    digest: str
    bytes: int
    why: str
    idle_seconds: float


class LoadFailure(msgspec.Struct, frozen=True, tag=True):
    digest: str
    code: str
    message: str
    retry_after: float


class Batch(msgspec.Struct, frozen=True, tag=True):
    """One device call, for the metrics."""

    digest: str
    texts: int
    tokens: int
    padded_tokens: int
    seconds: float


Command = Offer | Embed | Load | Unload | Cancel | Keep
Report = Ready | Done | Failed | Residency | Loaded | Unloaded | LoadFailure | Batch

commands: Final[msgspec.msgpack.Decoder[Command]] = msgspec.msgpack.Decoder(Command)
reports: Final[msgspec.msgpack.Decoder[Report]] = msgspec.msgpack.Decoder(Report)
_encoder: Final = msgspec.msgpack.Encoder()
M = TypeVar("M")


class Link(asyncio.Protocol, Generic[M]):
    """One end of the socket. `on_frame` is called with each message and its payload, `on_lost` once when the other
    end is gone; both must be set before the first byte comes."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M], on_lost: Callable[[], None] = lambda: None) -> None:
        self._decoder = decoder
        self.on_frame: Callable[[M, bytes], None] = lambda message, payload: None
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=MAX_FRAME)  # the queue before us is bounded, so this is too

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= HEAD.size:
            header, payload = HEAD.unpack_from(self._buffer, start)
            if header + payload > MAX_FRAME:
                raise ValueError(f"a frame of {header + payload} bytes")
            end = start + HEAD.size + header + payload
            if len(self._buffer) < end:
                break
            middle = end - payload
            with memoryview(self._buffer) as view:
                message = self._decoder.decode(view[start + HEAD.size : middle])
                body = bytes(view[middle:end])
            start = end
            self.on_frame(message, body)
        del self._buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost()

    def send(self, message: Command | Report, payload: bytes | memoryview = b"") -> None:
        """Sends one frame; does nothing once the other end is gone (`on_lost` has told)."""
        if self._transport is None or self._transport.is_closing():
            return
        header, body = _encoder.encode(message), memoryview(payload)
        self._transport.writelines([HEAD.pack(len(header), body.nbytes), header, body])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
