"""What is free goes back to the system, and what stays is not looked at again."""

from __future__ import annotations

import gc
import subprocess
import sys

from gateway import heap

HOLES = """
import gc, os
from pathlib import Path
from gateway import heap
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
heap.prepare()
heap.settle()
held = [bytes(4000) for _ in range(20_000)]
full = resident()
last = held[-1]  # the heap can not shrink from its end
held = None
heap.tidy()
print(full - resident())
"""


def test_free_room_in_the_midst_of_the_heap_goes_back_to_the_system() -> None:
    freed = int(subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True).stdout)
    assert freed > 20_000 * 4000 * 0.9


def test_the_collector_looks_only_at_what_is_new_once_the_gateway_has_settled() -> None:
    before = gc.get_threshold()
    try:
        heap.settle()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < 1_000
        new = [object]
        assert any(found is new for found in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
