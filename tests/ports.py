"""Ports of this machine that a test names before anybody listens there, or after."""

from __future__ import annotations

import socket


def reserved(port: int = 0) -> socket.socket:
    """Nobody listens on its port, and the kernel gives it to no other process, until it is closed. A server that
    reuses addresses may listen there meanwhile: one that stops, and comes back, finds its port free."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", port))
    return held


def number(held: socket.socket) -> int:
    return int(held.getsockname()[1])
