"""Only the device lane has a team of threads: see the module."""

from __future__ import annotations

import subprocess
import sys

import pytest

RUN = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
import torch
from gateway.host import threads

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
