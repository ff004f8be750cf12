"""A server that does nothing but answer: it bounds what a load generator can do.

python -m bench.bare PORT BYTES
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Bare(asyncio.Protocol):
    """HTTP/1.1 of one shape: a head, and a body as long as its Content-Length. Each gets the same answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := request_end(self._buffer)) and len(self._buffer) >= end:
            del self._buffer[:end]
            self._transport.write(self._answer)


def request_end(buffer: bytes | bytearray) -> int:
    """Bytes of the first request in `buffer`, 0 while its head is not whole."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return 0
    length = buffer[:head].lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return head + 4 + int(length or 0)


async def serve(port: int, size: int) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    answer = head.encode() + b" " * (size - 2) + b"{}"
    server = await asyncio.get_running_loop().create_server(lambda: Bare(answer), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
