"""What a gateway and a replica of a cluster say to each other: the commands and replies of `wire`, with what the far
end of a network has to be told besides. All of it travels as MessagePack in bytes, vectors raw beside it.

Nothing is remembered between two requests: each brings what it is about, so that any replica can answer it, also one
that has just been started.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from gateway.engine.routing import Told
from gateway.host import wire
from gateway.model import Generation
from gateway.wish import Wish


class Lost(Exception):
    """The replica, its node, or the way to it is gone. What it was asked may be asked of another."""


class Need(NamedTuple):
    """What a request is about, for who chooses a replica: the digest of what has to be loaded, its bytes, and the
    seconds of a device's time for `computing` what is asked and for `loading`. It travels as a tuple."""

    digest: str
    size: int
    computing: float
    loading: float


class Offered(msgspec.Struct, frozen=True):
    """A generation that a command needs. `sources` are the models on the volume that have its content, as their ids'
    paths; its own `path` is where it lies on the gateway's disk, which a node may see or not. Neither is believed: what
    a node takes has the digest, or is not taken."""

    generation: Generation
    wish: Wish
    sources: tuple[str, ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """A command, and the generations it is about, a base before its adapter. The command's number is the replica's to
    give."""

    offers: tuple[Offered, ...]
    command: wire.Command


class Died(msgspec.Struct, frozen=True, tag=True):
    """The replica's host died before it answered; the words are those of `supervisor.Death`."""

    suspect: bool
    sole: bool


class HostDied(msgspec.Struct, frozen=True, tag=True):
    """These generations were at work when the host died, each for so many seconds; `sole`: and nothing else was.
    `when` is the node's time, in seconds since 1970."""

    suspects: dict[str, float]
    sole: bool
    when: float


class Event(msgspec.Struct, frozen=True, tag=True):
    """An event of the replica's own, under its name."""

    name: str
    facts: dict[str, Any]


Reply = wire.Done | wire.Failed | Died
Streamed = wire.Piece | Reply
Happened = wire.Batch | wire.Loaded | wire.Unloaded | wire.LoadFailure | wire.FellBack | HostDied | Event


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as it is. `name` stays over its restarts and `life` does not; `version` is the last that it knows of
    what the asking gateway wants kept, -1 for none; `happened` is what came since that gateway has last heard, and the
    last of it has the number `told`."""

    name: str
    life: str
    up: bool
    pid: int | None
    restarts: int
    reported: float
    residency: wire.Residency
    version: int
    told: int
    happened: list[Happened] = []


asked: Final[msgspec.msgpack.Decoder[Asked]] = msgspec.msgpack.Decoder(Asked)
replies: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)
streamed: Final[msgspec.msgpack.Decoder[Streamed]] = msgspec.msgpack.Decoder(Streamed)
told: Final[msgspec.json.Decoder[Told]] = msgspec.json.Decoder(Told)  # by way of Serve, which wants what JSON can hold
states: Final[msgspec.msgpack.Decoder[State]] = msgspec.msgpack.Decoder(State)
