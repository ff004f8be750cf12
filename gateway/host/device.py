"""One device, as torch names it ("cpu", "cuda", "cuda:1"), and the two ways in which it fails.

OutOfMemory can be healed by unloading or by splitting the batch. DeviceFault cannot: a device-side assert or a
lost device poisons its process, and only a new one cures it. Any other error is a bug, and passes through.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import torch

REFUSED_BY_CPU: Final = "can't allocate memory"  # torch's CPU allocator raises a bare RuntimeError
FAULTS: Final = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS")  # likewise, for errors inside its libraries


class OutOfMemory(Exception):
    """The device has no room for what was asked. The host decides what to unload or to split."""


class DeviceFault(Exception):
    """The device's context is lost, and every later call in this process would fail too."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Turns every allocator's refusal into OutOfMemory, and a lost device into DeviceFault."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(str(error)) from error
    except torch.AcceleratorError as error:
        raise DeviceFault(str(error)) from error
    except RuntimeError as error:
        if REFUSED_BY_CPU in str(error):
            raise OutOfMemory(str(error)) from error
        if any(fault in str(error) for fault in FAULTS):
            raise DeviceFault(str(error)) from error
        raise


def on_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def set_threads(count: int) -> None:
    """How many threads one device call on a CPU may use."""
    torch.set_num_threads(count)
