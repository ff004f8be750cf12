"""The ways in which people copy a directory, each run for real and made to stall where a plan says.

A writer blocks until its copy is complete; what it leaves is exactly the source. `kubectl cp` is its own tar fed
through a pipe, cp reads from FIFOs, rsync runs over a remote shell of ours: their code is theirs, the stalls are ours.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.drop import placing, relay
from bench.drop.contents import every_file
from bench.drop.stalls import Stalls, after, at, feed, pour

BLOCK: Final = 512  # of a tar archive
FILE_LIST: Final = 300  # bytes that rsync sends before the first file, about
POLL: Final = 0.0005  # seconds between attempts to open a FIFO that cp has not reached

Write = Callable[[Path, Path, Stalls], None]


@dataclass(frozen=True, slots=True)
class Writer:
    """`held`: it holds something open below the volume for as long as it lives, so that /proc shows it also between
    two files. `in_place`: an update goes into the directory that is there, file by file. `needs` is its program."""

    name: str
    write: Write
    held: bool
    in_place: bool
    needs: str


class Failed(Exception):
    """A writer that did not do its work: nothing is said about the target."""


def tar(source: Path, target: Path, stalls: Stalls, *, command: Sequence[str]) -> None:
    archive, ends = packed(source, target.name)
    cuts = []
    for number, (begin, end) in enumerate(ends):
        cuts += [(begin + BLOCK + position, seconds) for position, seconds in at(stalls, number, end - begin - BLOCK)]
        cuts.append((end, after(stalls, number)))
    with subprocess.Popen([*command, "-C", str(target.parent)], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        feed(process.stdin, archive, [cut for cut in cuts if cut[1]])
        process.stdin.close()
    _must_be_zero(process.returncode, command[0])


def packed(source: Path, name: str) -> tuple[bytes, list[tuple[int, int]]]:
    """An archive as kubectl makes it, and where each of its files begins and ends."""
    buffer, ends = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in every_file(source):
            begin = buffer.tell()
            archive.add(source / file, f"{name}/{file}")
            ends.append((begin, buffer.tell()))
    return buffer.getvalue(), ends


def cp(source: Path, target: Path, stalls: Stalls) -> None:
    """`cp -r`, which reads from FIFOs, in its own order: it waits where we do not write."""
    with tempfile.TemporaryDirectory() as folder:
        fifos = Path(folder)
        left = every_file(source)
        for name in left:
            (fifos / name).parent.mkdir(parents=True, exist_ok=True)
            os.mkfifo(fifos / name)
        command = ["cp", "-rT", "--copy-contents", folder, str(target)]
        with subprocess.Popen(command) as process:
            for number in range(len(left)):
                name, descriptor = _wanted(fifos, left, process)
                with os.fdopen(descriptor, "wb", buffering=0) as stream:
                    content = (source / name).read_bytes()
                    pour(stream.write, content, at(stalls, number, len(content)))
                left.remove(name)
                time.sleep(after(stalls, number))
    _must_be_zero(process.returncode, "cp")


def _wanted(fifos: Path, left: list[str], process: subprocess.Popen[bytes]) -> tuple[str, int]:
    """The FIFO that cp has open, opened for writing."""
    while process.poll() is None:
        for name in left:
            try:
                descriptor = os.open(fifos / name, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody reads it yet
                    raise
                continue
            os.set_blocking(descriptor, True)
            return name, descriptor
        time.sleep(POLL)
    raise Failed(f"cp ended with status {process.returncode} before it had read all")


def rsync(source: Path, target: Path, stalls: Stalls, *, options: Sequence[str] = ()) -> None:
    cuts, sent = [], FILE_LIST
    for number, name in enumerate(every_file(source)):
        size = (source / name).stat().st_size
        cuts += [(sent + position, seconds) for position, seconds in at(stalls, number, size)]
        sent += size
        cuts.append((sent, after(stalls, number)))
    environment = {**os.environ, "DROPGATE_STALLS": json.dumps([cut for cut in cuts if cut[1]])}
    shell = f"{sys.executable} {relay.__file__}"
    command = ["rsync", "-a", "--whole-file", *options, "-e", shell, f"{source}/", f"host:{target}/"]
    _must_be_zero(subprocess.run(command, env=environment, check=False).returncode, "rsync")


def placed(source: Path, target: Path, stalls: Stalls, *, way: str) -> None:
    plan = json.dumps([astuple(stall) for stall in stalls])
    command = [sys.executable, "-S", placing.__file__, way, str(source), str(target), plan]
    _must_be_zero(subprocess.run(command, check=False).returncode, way)


def _must_be_zero(status: int, name: str) -> None:
    if status:
        raise Failed(f"{name} ended with status {status}")


KUBECTL: Final = partial(tar, command=("tar", "-xmf", "-"))
DOCKER: Final = partial(tar, command=("tar", "-xpf", "-"))
BUSYBOX: Final = partial(tar, command=("busybox", "tar", "-xmf", "-"))
WRITERS: Final = (
    Writer("kubectl cp (GNU tar)", KUBECTL, held=True, in_place=True, needs="tar"),
    Writer("kubectl cp (busybox tar)", BUSYBOX, held=True, in_place=True, needs="busybox"),
    Writer("tar -p (docker cp)", DOCKER, held=True, in_place=True, needs="tar"),
    Writer("cp -r", cp, held=False, in_place=True, needs="cp"),
    Writer("rsync -a", rsync, held=True, in_place=True, needs="rsync"),
    Writer("rsync --inplace", partial(rsync, options=("--inplace",)), held=True, in_place=True, needs="rsync"),
    Writer(
        "rsync --delay-updates", partial(rsync, options=("--delay-updates",)), held=True, in_place=True, needs="rsync"
    ),
    Writer("parallel, preallocated", partial(placed, way="preallocated"), held=True, in_place=True, needs="python3"),
    Writer("memory-mapped", partial(placed, way="mapped"), held=False, in_place=True, needs="python3"),
    Writer("rename", partial(placed, way="rename"), held=False, in_place=False, needs="python3"),
    Writer("exchange", partial(placed, way="exchange"), held=False, in_place=False, needs="python3"),
)


def available() -> tuple[list[Writer], list[Writer]]:
    """Those whose program is there, and those whose is not."""
    there = [writer for writer in WRITERS if shutil.which(writer.needs)]
    return there, [writer for writer in WRITERS if writer not in there]
