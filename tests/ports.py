"""Ports that stay a test's own: one that was only looked for may be somebody else's by the time it is used."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[int]:
    """A port of loopback that the kernel gives to nobody while this lasts. Who is told of it may listen there, and
    again later, with SO_REUSEADDR, as servers do; while nobody does, connections are refused."""
    with socket.socket() as guard:
        guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        guard.bind(("127.0.0.1", 0))
        port: int = guard.getsockname()[1]
        yield port
