"""Worker threads of the processor for the texts of one device call, each computing with one thread.

Threads that share every matrix product wait for each other some hundred times in a forward pass, and one that a
neighbour displaces holds up all. Threads with texts of their own meet once, at the end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from gateway.host import threads
from gateway.lane import Lane

P = TypeVar("P")
T = TypeVar("T")


class Crew:
    """`width` threads. One call at a time: only a device lane has calls."""

    def __init__(self, width: int) -> None:
        self._lane = Lane("compute", width, begin=threads.give_way)

    def map(self, function: Callable[[P], T], parts: Sequence[P]) -> list[T]:
        """`function` of each part, all at once; waits for all, and raises what the first to fail raised."""
        threads = torch.get_num_threads()
        done = self._lane.map(functools.partial(_by_one_thread, function), parts)
        if any(begun for begun, _ in done):
            torch.set_num_threads(threads)  # a thread's own number is also what later threads begin with
        return [result for _, result in done]


@functools.cache
def crew(width: int) -> Crew:
    """The process's own: its threads are kept, for a thread that ends takes torch's workspaces with it."""
    return Crew(width)


def _by_one_thread(function: Callable[[P], T], part: P) -> tuple[bool, T]:
    begun = torch.get_num_threads() != 1
    if begun:
        torch.set_num_threads(1)
    with torch.inference_mode():  # it counts for the thread that enters it
        return begun, function(part)
