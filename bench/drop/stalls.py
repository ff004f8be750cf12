"""Where and for how long a copy stalls, and how a stream is fed so that it does.

A stall is placed by files, not by bytes: most of what goes wrong goes wrong between two files.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Final

LONGEST: Final = 2.5  # times the quiet time


@dataclass(frozen=True, slots=True)
class Stall:
    """When the `file`-th file (in the writer's own order) has `part` of its bytes; 1.0 is between it and the next."""

    file: int
    part: float
    seconds: float


Stalls = Sequence[Stall]


def drawn(chance: random.Random, files: int, quiet: float) -> tuple[Stall, ...]:
    """One to three stalls somewhere in a copy of `files` files, each of up to two and a half quiet times."""
    stalls = []
    for _ in range(chance.randint(1, 3)):
        part = 1.0 if chance.random() < 0.6 else chance.random()
        stalls.append(Stall(chance.randrange(files), part, chance.uniform(0, LONGEST * quiet)))
    return tuple(sorted(stalls, key=lambda stall: (stall.file, stall.part)))


def at(stalls: Stalls, file: int, size: int) -> list[tuple[int, float]]:
    """The stalls inside the `file`-th file: after how many of its bytes, and for how long."""
    return [(int(stall.part * size), stall.seconds) for stall in stalls if stall.file == file and stall.part < 1]


def after(stalls: Stalls, file: int) -> float:
    """For how long to stall between the `file`-th file and the next."""
    return sum(stall.seconds for stall in stalls if stall.file == file and stall.part == 1)


def feed(stream: IO[bytes], content: bytes, stalls: list[tuple[int, float]]) -> None:
    """Writes it all, with a stall after so many bytes, in seconds."""
    pour(stream.write, content, stalls, stream.flush)


def pour(
    write: Callable[[bytes], object],
    content: bytes,
    stalls: list[tuple[int, float]],
    flush: Callable[[], object] = lambda: None,
) -> None:
    sent = 0
    for position, seconds in sorted(stalls):
        write(content[sent:position])
        flush()
        sent = position
        time.sleep(seconds)
    write(content[sent:])
    flush()
