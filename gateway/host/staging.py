"""The way of a call's numbers to a device and back, through page-locked memory that is allocated once.

There are as many slots as calls may be under way. Token ids go up on a stream of their own while the call before
still computes; vectors come back without the caller waiting until it asks. A slot's memory is written again only when
the device is done with the call that had it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gateway.host import cuda

SLOTS: Final = 2  # one call computes, the next one is brought up
LEAST: Final = 1 << 12  # numbers: what a buffer begins with, so that short calls never make it grow
ALIGNMENT: Final = 2  # int64 numbers: 16 bytes, the widest load of a kernel


class Event(Protocol):
    """A moment in the work of a device."""

    def synchronize(self) -> None:
        """Returns when the device has come so far."""


class Bus(Protocol):
    """What lies between host and device. Copies are only asked for, and go on when these return."""

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        """Host memory for `size` numbers that copies may go from and to."""

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        """Memory of the device for `size` numbers, which nothing asked for before still uses."""

    def up(self, source: Tensor, target: Tensor) -> None:
        """Host to device. What is computed from now on comes after it; it waits for nothing that was asked before."""

    def down(self, source: Tensor, target: Tensor) -> Event:
        """Device to host, behind all that was asked for; the event is its end."""


class CudaBus:
    """The Bus of a CUDA device, for the thread that makes it."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._compute = torch.cuda.current_stream(device)
        self._uploads = cuda.stream(device)

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, pin_memory=True)

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        memory = torch.empty(size, dtype=dtype, device=self._device)
        self._compute.synchronize()  # it may have been freed while a kernel still reads it, and `up` would overtake
        return memory

    def up(self, source: Tensor, target: Tensor) -> None:
        with torch.cuda.stream(self._uploads):
            target.copy_(source, non_blocking=True)
        self._compute.wait_stream(self._uploads)

    def down(self, source: Tensor, target: Tensor) -> Event:
        target.copy_(source, non_blocking=True)
        done: Event = self._compute.record_event()
        return done


class Pending:
    """Vectors on their way to the host."""

    def __init__(self, vectors: Tensor, done: Event) -> None:
        self._staged = vectors
        self._done = done
        self._kept: dict[None, npt.NDArray[np.float32]] = {}

    def wait(self) -> npt.NDArray[np.float32]:
        """The vectors, in memory of their own. Raises what went wrong on the device. Any thread may wait."""
        if not self._kept:
            self._done.synchronize()
            # the first copy counts: that of a slower thread may be of the next call already
            self._kept.setdefault(None, self._staged.numpy().copy())
        return self._kept[None]


class Staging:
    """Each call is `upload`, compute, `download`. The next may begin while one is `Pending`; all in one thread."""

    def __init__(self, bus: Bus, slots: int = SLOTS) -> None:
        self._bus = bus
        self._slots = [_Slot() for _ in range(slots)]
        self._turn = 0

    def upload(self, arrays: Sequence[npt.NDArray[np.int64]]) -> list[Tensor]:
        """The arrays on the device, in one copy; theirs until `slots` more calls have begun."""
        self._turn = (self._turn + 1) % len(self._slots)
        slot = self._slots[self._turn]
        if slot.pending:  # its vectors leave the slot, and with that its call is over
            slot.pending.wait()
        places, size = layout([array.size for array in arrays])
        if size > slot.staged.numel():
            slot.staged = self._bus.pinned(grown(size), torch.int64)
            slot.numbers = self._bus.empty(grown(size), torch.int64)
        staged = slot.staged.numpy()
        for array, place in zip(arrays, places, strict=True):
            staged[place : place + array.size] = array.reshape(-1)
        self._bus.up(slot.staged[:size], slot.numbers[:size])
        return [
            slot.numbers[place : place + array.size].view(array.shape)
            for array, place in zip(arrays, places, strict=True)
        ]

    def download(self, vectors: Tensor) -> Pending:
        """Begins to bring float32 vectors of the last upload back."""
        slot = self._slots[self._turn]
        if vectors.numel() > slot.vectors.numel():
            slot.vectors = self._bus.pinned(grown(vectors.numel()), torch.float32)
        home = slot.vectors[: vectors.numel()].view(vectors.shape)
        slot.pending = Pending(home, self._bus.down(vectors, home))
        return slot.pending


class _Slot:
    """The memory of one call under way."""

    def __init__(self) -> None:
        self.staged = torch.empty(0, dtype=torch.int64)
        self.numbers = torch.empty(0, dtype=torch.int64)
        self.vectors = torch.empty(0)
        self.pending: Pending | None = None


def grown(size: int) -> int:
    """What to take for `size` numbers, so that memory is taken a few times and not with each longer call."""
    return max(LEAST, 1 << (size - 1).bit_length())


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where arrays of these sizes begin in one flat buffer, and its size. Each begins at a multiple of 16 bytes."""
    places, end = [], 0
    for size in sizes:
        places.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return places, end
