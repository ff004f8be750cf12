"""What a device says when it fails: whether only memory was short, or its context is lost."""

from __future__ import annotations

import subprocess
import sys
import weakref

import pytest
import torch

from gateway.host import memory
from gateway.host.cuda import MEMORY_ALLOCATION, is_out_of_memory
from gateway.host.device import DEVICE_FAULT

DEVICE_SIDE_ASSERT = 710
LOST = """
import torch
from gateway.host.device import or_exit
def work():
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")
or_exit(work)
print("it went on")
"""


def accelerator_error(code: int) -> torch.AcceleratorError:
    """As torch raises it: with CUDA's number."""
    error = torch.AcceleratorError("CUDA error")
    error.error_code = code
    return error


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (accelerator_error(MEMORY_ALLOCATION), True),
        (accelerator_error(DEVICE_SIDE_ASSERT), False),
        (torch.AcceleratorError("without a number"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
    ],
)
def test_a_refusal_of_memory_is_known_in_every_disguise(error: Exception, refusal: bool) -> None:
    assert is_out_of_memory(error) == refusal
    with pytest.raises(memory.OutOfMemory if refusal else type(error)), memory.guarded():
        raise error


def test_what_a_failed_call_held_is_free_while_its_error_is_still_handled() -> None:
    """Else the second, smaller try would begin with the memory of the first still taken."""
    held: list[weakref.ref[torch.Tensor]] = []

    def layer() -> None:
        activations = torch.ones(8)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    try:
        with memory.guarded():
            layer()
    except memory.OutOfMemory:
        assert held[0]() is None


def test_a_lost_context_ends_the_process_with_the_status_of_a_device_fault() -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False)
    assert done.returncode == DEVICE_FAULT
    assert done.stdout == ""
    assert "device-side assert triggered" in done.stderr
