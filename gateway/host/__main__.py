"""`python -m gateway.host SOCKET_FD RECORDER_FD CONFIG_JSON`: one host process, as the gateway spawns it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import traceback

import msgspec
import uvloop

# OpenMP's threads spin between two matrix products, by default for milliseconds, and one that a neighbour displaced
# then finds its processor taken by spinning. So many turns just bridge what lies between two products of one call: with
# a tenth of them a lone short text takes twice as long, with thirty times as many (the default) it does so beside busy
# neighbours. It is read when torch is imported.
os.environ["GOMP_SPINCOUNT"] = "10000"

from gateway.host import wire
from gateway.host.host import Config, Host
from gateway.host.link import Link
from gateway.host.recorder import Recorder

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Serves until the gateway closes the socket or dies."""
    faulthandler.enable()
    _die_with_parent(int(arguments[3]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # both may go to the whole process group; the gateway drains first
    config = msgspec.json.decode(arguments[2], type=Config)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(socket.socket(fileno=int(arguments[0])), Recorder(int(arguments[1])), config))
    return 0


def _die_with_parent(parent: int) -> None:
    """The kernel kills this process when the gateway dies, whatever killed it; the check closes the race before."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


async def serve(connection: socket.socket, recorder: Recorder, config: Config) -> None:
    """One host on one end of a socket pair; returns when the other end is gone."""
    gone = asyncio.Event()
    link: Link[wire.Command] = Link(wire.commands, gone.set)
    host = Host(config, recorder, link.send)
    link.on_frame = host.receive
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: link, sock=connection)
    serving = loop.create_task(host.serve())
    closing = loop.create_task(gone.wait())
    await asyncio.wait({serving, closing}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done() and (error := serving.exception()):  # a bug: it never returns
        traceback.print_exception(error)
        sys.stderr.flush()
    os._exit(1 if serving.done() else 0)  # at once: threads may be deep in a device call


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
