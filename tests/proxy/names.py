"""A name server for addresses on this machine (RFC 1035): what a cluster's tells of a headless Service."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final, Self

A: Final = 1  # an IPv4 address
NO_SUCH_NAME: Final = 3
SECONDS: Final = 1  # that an answer is good for


class NameServer(asyncio.DatagramProtocol):
    """`async with NameServer({name: address})`: at `address` on this machine; what it knows may be changed."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known
        self.address = ""
        self._transport: Any = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(self._transport.get_extra_info("sockname")[1])
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._transport.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        number = struct.unpack_from("!H", data)[0]
        name, end = _name(data)
        question, kind = data[12 : end + 4], struct.unpack_from("!H", data, end)[0]
        found = self.known.get(name)
        answer = b""
        if found and kind == A:  # of other kinds a name that there is has none
            packed = bytes(int(part) for part in found.split("."))
            answer = struct.pack("!HHHIH", 0xC00C, A, 1, SECONDS, len(packed)) + packed
        flags = 0x8580 | (0 if found else NO_SUCH_NAME)
        head = struct.pack("!HHHHHH", number, flags, 1, 1 if answer else 0, 0, 0)
        self._transport.sendto(head + question + answer, addr)


def _name(data: bytes) -> tuple[str, int]:
    """Of the question, and where it ends."""
    parts, at = [], 12
    while length := data[at]:
        parts.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(parts).lower(), at + 1
