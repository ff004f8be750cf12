"""Only the device lane has a team of threads: see the module."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gateway.host import threads
from gateway.host.crew import Crew
from gateway.host.device import Device
from gateway.host.recorder import Recorder
from gateway.lane import Lane

RUN = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import torch
from gateway.host import threads
from gateway.host.crew import Crew

def compute():
    torch.ones(512, 512) @ torch.ones(512, 512)
    torch.ones(1 << 22).sum()
    return len(os.listdir("/proc/self/task")), torch.get_num_threads()

threads.use(3)
disk, device = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
if "alone" in sys.argv:
    disk.submit(threads.alone).result()
    threads.use(threads.count())
disk.submit(os.getpid).result()
before = len(os.listdir("/proc/self/task"))
after, own = disk.submit(compute).result()
_, lane = device.submit(compute).result()
print(after - before, own, lane, threads.count())
"""


@pytest.mark.parametrize(("who", "made", "own"), [("alone", 0, 1), ("together", 2, 3)])
def test_a_thread_that_computes_alone_makes_no_team_and_leaves_the_others_theirs(who: str, made: int, own: int) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, who], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(made), str(own), "3", "3"]


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


async def test_what_computes_on_processors_gives_way_to_all_else() -> None:
    """To the loop above all, which answers and refuses; a GPU's lane only launches, and must not wait."""
    mine = niceness()
    wanted = min(threads.LEAST_PRIORITY, mine + threads.NICER)
    assert await Device("cpu", Recorder.create()).run(niceness) == wanted
    assert await Device("cuda:0", Recorder.create()).run(niceness) == mine
    assert await Lane("other").run(niceness) == niceness() == mine
    assert Crew(2).map(lambda part: niceness(), [1, 2]) == [wanted, wanted]
