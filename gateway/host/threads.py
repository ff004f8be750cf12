"""Who computes with how many threads on a CPU.

OpenMP makes a team for each thread that computes, and counts them all: with more threads than processors its teams no
longer wait for one another by spinning, and a lone short text takes twice as long. So the device lane alone has a team;
loads compute with one thread, and so does each of the crew.
"""

from __future__ import annotations

import os
from typing import Final

import torch

# a third of the weight of a thread that is not: https://docs.kernel.org/scheduler/sched-nice-design.html
NICER: Final = 5
LEAST_PRIORITY: Final = 19
_count = 0


def use(count: int) -> None:
    """Threads of a device call."""
    global _count  # noqa: PLW0603 - it is the process's own number, as OpenMP's is
    _count = count
    torch.set_num_threads(count)


def count() -> int:
    """Threads of a device call, whichever thread asks."""
    return _count or torch.get_num_threads()


def alone() -> None:
    """The calling thread computes by itself from now on. `use` the old number on another thread afterwards: this one
    is also what later threads begin with."""
    torch.get_num_threads()  # a thread that has never asked takes the process's number when it first computes
    torch.set_num_threads(1)


def give_way() -> None:
    """The calling thread, and those that it starts, leave a processor to whoever else wakes up.

    What computes takes every processor for milliseconds, and requests come in, are answered and refused in
    microseconds: they are not to wait for it.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0)  # of this thread, on Linux
    os.setpriority(os.PRIO_PROCESS, 0, min(LEAST_PRIORITY, niceness + NICER))
