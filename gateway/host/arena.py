"""The tensors of one model in one piece of memory, so that moving the model is one copy at the speed of the bus.

A tensor stays the object it was and only its memory changes; tensors that shared memory go on sharing it. From a
device to the host the piece is page-locked. Device memory that was moved away from is free when `move` returns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from gateway.host import cuda
from gateway.host.memory import on_cuda

ALIGNMENT: Final = 64  # bytes: no kernel loads more at once, and hardly a tensor leaves a gap


@dataclass(frozen=True, slots=True)
class View:
    """Where a tensor lies: `begin` is its first byte in the piece."""

    tensor: Tensor
    begin: int
    shape: torch.Size
    strides: tuple[int, ...]


class Arena:
    """`bytes` is the size of the piece. The tensors may begin anywhere in host memory, mapped files too."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._views: list[View] = []
        self._sources: dict[int, tuple[Tensor, int]] = {}  # address -> storage as bytes, place in the piece
        self.bytes = 0
        for tensor in {id(tensor): tensor for tensor in tensors}.values():
            self._add(tensor)
        self._piece: Tensor | None = None
        self._pinned: cuda.Pinned | None = None
        self._left: list[cuda.Pinned] = []

    def move(self, device: str) -> None:
        """All tensors to `device`. Raises torch.OutOfMemoryError or MemoryError, and then nothing has moved.

        Page-locked memory that was left is free after `tidy`: unlocking takes as long as a copy.
        """
        leaves_gpu = self._piece is not None and self._piece.is_cuda and not on_cuda(device)
        pinned = self._page_locked() if leaves_gpu else None
        piece = pinned.tensor if pinned else torch.empty(self.bytes, dtype=torch.uint8, device=device)
        self._fill(piece)
        self._rebind(piece)
        if self._pinned:
            self._left.append(self._pinned)
        self._piece, self._pinned = piece, pinned

    def tidy(self) -> None:
        """Gives back what the last move left. Any thread may do it."""
        with contextlib.suppress(IndexError):  # empty, or another thread was quicker
            while True:
                self._left.pop().close()

    def free(self) -> None:
        """Gives the memory back. The tensors are empty from then on."""
        for view in self._views:
            view.tensor.data = view.tensor.new_empty(0)
        self._views.clear()
        self._sources.clear()
        self._piece = None
        if self._pinned:
            self._pinned.close()
        self._pinned = None
        self.tidy()
        self.bytes = 0

    def _page_locked(self) -> cuda.Pinned:
        try:
            return self._left.pop()
        except IndexError:
            return cuda.Pinned(self.bytes)

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key not in self._sources:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            self._sources[key] = whole, self.bytes
            self.bytes += -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
        begin = self._sources[key][1] + int(tensor.storage_offset()) * tensor.element_size()
        self._views.append(View(tensor, begin, tensor.shape, tensor.stride()))

    def _fill(self, piece: Tensor) -> None:
        if self._piece is None:
            for source, begin in self._sources.values():
                piece[begin : begin + source.numel()].copy_(source)
        elif not (piece.is_cuda or self._piece.is_cuda):
            piece.copy_(self._piece)
        else:
            _copy(self._piece, piece)

    def _rebind(self, piece: Tensor) -> None:
        storage = piece.untyped_storage()
        for view in self._views:
            empty = torch.empty(0, dtype=view.tensor.dtype, device=piece.device)
            offset = view.begin // view.tensor.element_size()
            view.tensor.data = empty.set_(storage, offset, view.shape, view.strides)
        self._sources.clear()  # the first homes of the tensors are no longer held


def _copy(source: Tensor, target: Tensor) -> None:
    """On a stream of its own, so that what the device computes meanwhile is not waited for by the bus, nor it by us."""
    device = target.device if target.is_cuda else source.device
    compute, copies = torch.cuda.current_stream(device), cuda.stream(device)
    copies.wait_stream(compute)  # `target` may be memory that a kernel before us still reads
    with torch.cuda.stream(copies):
        target.copy_(source, non_blocking=True)
    copies.synchronize()
