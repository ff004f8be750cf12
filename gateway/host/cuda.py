"""What torch is told once about a CUDA device, and host memory that the device copies from at the speed of the bus.

float32 means IEEE float32: TensorFloat-32 keeps 10 bits of a factor and is never switched on behind a caller's back.
Half precisions add up in float32 for the same reason. A thread has a current device of its own, 0 unless it is told.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any, Final

import torch

PORTABLE: Final = 1  # cudaHostRegisterPortable: locked for every context of the process
MEMORY_ALLOCATION: Final = 2  # cudaErrorMemoryAllocation, the one CUDA error after which the context lives on


def prepare(device: str) -> None:
    """Makes `device` this thread's own and sets the precision of its products. Once for each thread that uses it.

    Without it a host of cuda:1 would also open a context on cuda:0, and hold half a gigabyte there.
    """
    torch.cuda.set_device(torch.device(device).index or 0)
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = False
    matmul.allow_fp16_reduced_precision_reduction = False
    matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False  # true by default, and some encoders convolve


def stream(device: str | torch.device) -> torch.cuda.Stream:
    """A new one. Kernels on it cost cuBLAS a workspace of its own, 32 MiB on Hopper; copies cost nothing."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it so


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is a refusal of memory in disguise: of CUDA itself, or of a library that wanted a workspace."""
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) == MEMORY_ALLOCATION
    return isinstance(error, RuntimeError) and "_STATUS_ALLOC_FAILED" in str(error)


class Pinned:
    """Page-locked bytes in host memory, exactly as many as were asked for; `tensor` is uint8 [size].

    Not `pin_memory`: torch's own allocator rounds up to a power of two and keeps what is freed. Where the driver will
    not lock the pages, they are ordinary memory: copies are then slower and no less right. Raises MemoryError.
    """

    def __init__(self, size: int) -> None:
        try:
            pages = mmap.mmap(-1, max(1, size))
        except OSError as error:
            raise MemoryError(f"{size} bytes of host memory: {error}") from error
        with contextlib.suppress(OSError):  # a kernel without them: more pages to lock, and no harm
            pages.madvise(mmap.MADV_HUGEPAGE)
        self.tensor = torch.frombuffer(pages, dtype=torch.uint8)[:size]
        self.locked = torch.cuda.is_available() and _lock(self.tensor)

    def close(self) -> None:
        """Gives the pages back. No copy from or to them may be on its way, and nobody may use `tensor` any more."""
        if self.locked:
            _runtime().cudaHostUnregister(self.tensor.data_ptr())
            self.locked = False
        self.tensor = self.tensor.new_empty(0)


def _lock(tensor: torch.Tensor) -> bool:
    if int(_runtime().cudaHostRegister(tensor.data_ptr(), tensor.numel(), PORTABLE)) == 0:
        return True
    with contextlib.suppress(RuntimeError):  # the refusal is kept as "the last error", for whoever asks next: us
        torch.ones(1, device="cuda")
    return False


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch leaves it so
