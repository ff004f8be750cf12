"""The lane of one device: all that touches it, in the order of arrival, noted on the page that outlives a crash.

Loads and device calls share the host; what is suspected of having killed one has it to itself. A device whose context
is lost ends the process, which is the only cure.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Final, ParamSpec, TypeVar

import torch

from gateway.host import cuda, memory, threads
from gateway.host.recorder import Recorder
from gateway.host.turns import Turns
from gateway.lane import Lane

P = ParamSpec("P")
T = TypeVar("T")
DEVICE_FAULT: Final = 71  # exit status: the device's context is poisoned, and only a new process cures it


class Device:
    """`name` as torch names it; `suspects` are requests and digests that were at work when a host died."""

    def __init__(self, name: str, recorder: Recorder) -> None:
        self.name = name
        self.suspects: set[int | str] = set()
        self._recorder = recorder
        self._turns = Turns()
        self._lane = Lane("device", begin=None if memory.on_cuda(name) else threads.give_way)

    async def prepare(self) -> None:
        """Once, before anything else."""
        if memory.on_cuda(self.name):
            await self._lane.run(cuda.prepare, self.name)

    def turn(self, names: Iterable[int | str]) -> AbstractAsyncContextManager[None]:
        """To work: shared, or alone with a suspect among the names."""
        return self._turns.shared() if self.suspects.isdisjoint(names) else self._turns.alone()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What is neither noted nor takes a turn: a part of something that is, or what cannot fail."""
        return await self._lane.run(or_exit, functools.partial(function, *args, **kwargs))

    async def note(self, function: Callable[[], T], digest: str, requests: list[int]) -> T:
        """Runs what may kill or hang the host, and notes for whom."""
        return await self._lane.run(self._noted, function, digest, requests)

    async def call(self, function: Callable[[], T], digest: str, requests: list[int]) -> T:
        """A device call, in its turn."""
        async with self.turn(requests):
            return await self.note(function, digest, requests)

    async def release(self) -> None:
        """Gives back what the allocators keep."""
        await self.run(memory.release, self.name)

    def _noted(self, function: Callable[[], T], digest: str, requests: list[int]) -> T:
        with self._recorder.device_call(digest, requests):
            return or_exit(function)


def or_exit(function: Callable[[], T]) -> T:
    """Ends the process when the device's context is lost; at once, so that the recorder still says what was running."""
    try:
        return function()
    except torch.AcceleratorError:  # out of memory was translated before
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        os._exit(DEVICE_FAULT)
