"""An event loop whose time is simulated: where a real one sleeps, this one jumps to the next thing that happens.

The gateway's own coroutines run on it unchanged. A simulated hour takes as long as its events take to compute, and two
runs of the same seed are the same to the last event.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Jump(selectors.SelectSelector):
    """Waits for nothing but time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is left that could happen")
        self.now += max(0.0, timeout)
        return []


class Loop(asyncio.SelectorEventLoop):
    """`time` is in simulated seconds, from 0."""

    def __init__(self) -> None:
        self._jump = Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now


def run(story: Coroutine[Any, Any, T]) -> T:
    """To its end, in simulated time."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(story)


async def until(when: float) -> None:
    """Returns at that time; at once if it has passed."""
    loop = asyncio.get_running_loop()
    if when > loop.time():
        await asyncio.sleep(when - loop.time())
