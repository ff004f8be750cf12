"""Ordered worker threads: the one place in the gateway and its hosts that starts threads.

A lane of one thread runs what it is given in the order of arrival, which is how a device is shared without
locks; a wider lane keeps blocking work (the disk, the tokenizer) off the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Answer = Future  # of work that was handed in and is not waited for


class Lane:
    """`width` threads. Work that has begun is finished even when its caller stops waiting for it."""

    def __init__(self, name: str, width: int = 1, *, begin: Callable[[], None] | None = None) -> None:
        """`begin` runs once on each thread, before anything else."""
        self.name = name
        self.width = width
        self._threads = ThreadPoolExecutor(width, thread_name_prefix=name, initializer=begin)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `function` on the lane and waits for its answer; its exceptions come out here."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(function, *args, **kwargs))

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Answer[T]:
        """Has `function` run on the lane, for a caller that is a thread itself and does not wait."""
        return self._threads.submit(function, *args, **kwargs)

    def map(self, function: Callable[[S], T], parts: Sequence[S]) -> list[T]:
        """`function` of each part, for a caller that is a thread itself and blocks until all are done; then the first
        exception among them comes out here."""
        futures = [self._threads.submit(function, part) for part in parts]
        wait(futures)
        return [future.result() for future in futures]

    def close(self, *, wait: bool = True) -> None:
        """Takes no more work; what waits is dropped, what runs is finished (and waited for, if `wait`)."""
        self._threads.shutdown(wait=wait, cancel_futures=True)


def leave(name: str, function: Callable[[S], object], argument: S, /, *, patience: float) -> None:
    """Runs `function` on a thread of its own, and waits for at most `patience` seconds: what hangs in the kernel is
    left behind there, and holds up neither its caller nor the end of the process."""
    thread = threading.Thread(target=function, args=(argument,), name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads
        function(argument)
    else:
        thread.join(patience)
