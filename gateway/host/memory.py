"""Bytes on the device: how many there may be, how many there are, and giving them back.

A device is named as torch names it: "cpu", "cuda", "cuda:1". What may be used is asked of the device or of the
control group, never assumed. Running out leaves this package as one exception, whatever allocator refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from gateway.host import cuda
from gateway.model import Manifest

CUDA_SHARE: Final = 0.9  # of what is free at the start: the driver and fragmentation take the rest
CUDA_RESERVE: Final = 1 << 30  # for the activations of a batch
ADAPTER_SHARE: Final = 1 / 32  # of the bytes for models, in addition
LEAST_ADAPTERS: Final = 64 << 20
CPU_SHARE: Final = 0.5  # weights; the other half is for activations, the loading itself and the page cache
HOST_SHARE: Final = 0.25  # of main memory, for what was evicted from all of the CUDA devices together
CGROUPS: Final = Path("/sys/fs/cgroup")
REFUSED_BY_CPU: Final = "can't allocate memory"  # torch's CPU allocator raises a bare RuntimeError


class OutOfMemory(Exception):
    """The device has no room for what was asked. The host decides what to unload or to split."""


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Turns every allocator's refusal into OutOfMemory; other errors of the device pass through."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_refusal(error):
            raise
        traceback.clear_frames(error.__traceback__)  # their variables are the very tensors that took the memory
        raise OutOfMemory(str(error)) from error


def _is_refusal(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return REFUSED_BY_CPU in str(error) or cuda.is_out_of_memory(error)


def budget(device: str, wanted: int = 0) -> int:
    """Bytes of weights that may be on `device`. `wanted` of 0 chooses by what is free (CUDA) or allowed (CPU)."""
    if wanted:
        return wanted
    if not on_cuda(device):
        return int(allowed() * CPU_SHARE)
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, int(free * CUDA_SHARE) - CUDA_RESERVE)


def adapter_budget(models: int, wanted: int = 0) -> int:
    """Bytes of adapters that may be on a device beside so many of models. `wanted` of 0 chooses."""
    return wanted or max(LEAST_ADAPTERS, int(models * ADAPTER_SHARE))


def host_budget(device: str, wanted: int | None = None) -> int:
    """Bytes of main memory for models that were evicted from `device`. None chooses a share of what is allowed; and
    nothing for a CPU, whose models are in main memory anyway, under the budget of the device."""
    if wanted is not None:
        return wanted
    return int(allowed() * HOST_SHARE) // max(1, torch.cuda.device_count()) if on_cuda(device) else 0


def allowed(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may use: the machine's memory, or less if a control group (v1 or v2) says so."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(cgroups, own)])


def _limits(cgroups: Path, own: Path) -> Iterator[int]:
    for folder in _own_groups(cgroups, own):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                yield int((folder / name).read_text())


def _own_groups(cgroups: Path, own: Path) -> Iterator[Path]:
    """Our groups and all above them: any of them may hold the limit. In a container the mount is our own group."""
    yield from (cgroups, cgroups / "memory")
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            group = cgroups / controllers / path.strip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(cgroups))


def allocated(device: str) -> int:
    """Bytes of live tensors on a CUDA device; 0 on a CPU, whose allocator keeps no count."""
    return torch.cuda.memory_allocated(device) if on_cuda(device) else 0


def tensor_bytes(module: torch.nn.Module) -> int:
    """Bytes of parameters and buffers. Tensors that share storage (tied weights) are counted once."""
    tensors = [*module.parameters(), *module.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def predict(manifest: Manifest, dtype: str = "float32") -> int:
    """Bytes that this model takes once it is loaded, computed in `dtype`."""
    return manifest.bytes_as(dtype)


def resident() -> int:
    """Bytes of this process that are in main memory."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def release(device: str) -> None:
    """Gives freed memory back to the device and to the operating system, which allocators would rather keep."""
    if on_cuda(device):
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # a C library other than glibc
            ctypes.CDLL(None).malloc_trim(0)


def on_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"
