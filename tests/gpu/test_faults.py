"""What a device does to its process ends that process, at once and by name; and nobody else's memory is touched."""

from __future__ import annotations

import subprocess
import sys

import torch

from gateway.host import memory
from gateway.host.device import DEVICE_FAULT

OUT_OF_RANGE = """
import torch
from gateway.host.device import or_exit
table, ids = torch.zeros(3, 4, device="cuda"), torch.tensor([99], device="cuda")
or_exit(lambda: torch.nn.functional.embedding(ids, table).cpu())
print("it went on")
"""
TOO_MUCH = """
import torch
from gateway.host import memory
from gateway.host.device import or_exit
def ask():
    try:
        with memory.guarded():
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    except memory.OutOfMemory:
        print("told as such")
or_exit(ask)
print(torch.ones(1, device="cuda").item())
"""


def ran(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_an_index_beyond_a_table_ends_the_process_that_asked() -> None:
    done = ran(OUT_OF_RANGE)
    assert done.returncode == DEVICE_FAULT
    assert "device-side assert" in done.stderr
    assert done.stdout == ""
    assert torch.ones(1, device="cuda").item() == 1  # ours lives on


def test_memory_that_is_not_there_ends_nothing() -> None:
    assert ran(TOO_MUCH).stdout.split("\n")[:2] == ["told as such", "1.0"]


def test_the_budget_is_what_is_free_with_room_left_for_the_work() -> None:
    free, total = torch.cuda.mem_get_info()
    assert 0 < memory.budget("cuda:0") < free <= total


def test_a_thread_of_the_device_computes_in_ieee_float32() -> None:
    a = torch.full((64, 64), 1 + 2**-12, device="cuda")  # TensorFloat-32 would round this to 1
    assert torch.equal(torch.mm(a, torch.eye(64, device="cuda")), a)
