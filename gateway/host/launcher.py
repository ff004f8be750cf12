"""How the calls of one model get onto a CUDA device: staged, replayed or launched, and brought back.

A small call replays a capture where there is one; else texts go end to end where the device can, and padded where
not. Between `begin` and the `wait` of what it gives, the host is free to begin the next call: the device then never
waits for it. One thread, the device's, does it all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gateway.host import blocks, memory, planes
from gateway.host.forms import Form
from gateway.host.graphs import Camera, CudaCamera, Graphs
from gateway.host.mixed import Changes
from gateway.host.planes import Shape
from gateway.host.segments import Integers
from gateway.host.staging import Bus, CudaBus, Pending, Staging

ANY_TEXT: Final = np.zeros(1, dtype=np.int64)
NOTHING: Final = np.zeros(1, dtype=np.int64)
GRAPH_BYTES: Final = 64 << 20  # for the captures of one model; its prediction counts them


class Launcher:
    """`longest` is the most tokens that a text has; `graph_bytes` bounds the captures, and `tell` hears once why there
    are none."""

    def __init__(
        self, form: Form, longest: int, bus: Bus, camera: Camera, *, graph_bytes: int, tell: Callable[[str], None]
    ) -> None:
        self.form = form
        self._staging = Staging(bus)
        self._graphs = Graphs(form.vectors, self._example, longest, camera, limit=graph_bytes, tell=tell)

    def begin(self, batch: Sequence[Integers], left_out: Integers) -> Pending:
        """Asks for the vectors [texts, dim] of a batch that is not empty; `left_out` [texts] tokens at the head of each
        are not pooled. Raises memory.OutOfMemory."""
        with memory.guarded(), torch.inference_mode():
            exact = len(batch), max(map(len, batch))
            shape = self._graphs.shape(*exact)
            if shape is None and self.form.flash:
                arrays = self._staging.upload(blocks.packed(batch, left_out))
                vectors = self.form.packed_vectors(arrays, exact[1])
            else:
                (numbers,) = self._staging.upload([self.form.padded(batch, left_out, shape or exact)])
                vectors = self._graphs.run(numbers, shape)
            return self._staging.download(vectors[: len(batch)])

    def pooled(self, batch: Sequence[Integers], left_out: Integers, changes: Changes) -> Tensor:
        """Of a batch whose texts adapters change: [texts, width * modes], on the device, before what comes behind the
        pooling. Captures know of no adapters. Raises memory.OutOfMemory."""
        with memory.guarded(), torch.inference_mode():
            exact = len(batch), max(map(len, batch))
            if self.form.flash:
                arrays = self._staging.upload(blocks.packed(batch, left_out))
                return self.form.packed_pooled(arrays, exact[1], changes)
            (numbers,) = self._staging.upload([self.form.padded(batch, left_out, exact)])
            return self.form.pooled(numbers, changes)

    def tokens(self, batch: Sequence[Integers], changes: Changes | None = None) -> list[Tensor]:
        """For each text of a batch its token vectors [tokens, width], in host memory. Raises memory.OutOfMemory."""
        with memory.guarded(), torch.inference_mode():
            exact = len(batch), max(map(len, batch))
            (numbers,) = self._staging.upload([self.form.padded(batch, planes.nothing(batch), exact)])
            tokens = self.form.tokens(numbers, changes)
            return [row[: len(ids)].cpu() for row, ids in zip(tokens, batch, strict=True)]

    def wants_pause(self, *, busy: bool) -> bool:
        """See Graphs."""
        return self._graphs.wants_pause(busy=busy)

    @property
    def captured_bytes(self) -> int:
        """What the captures hold on the device."""
        return self._graphs.bytes

    def use_pause(self) -> None:
        """Makes later calls faster, once."""
        with torch.inference_mode():
            self._graphs.spare()

    def _example(self, shape: Shape) -> Tensor:
        return torch.from_numpy(self.form.padded([ANY_TEXT], NOTHING, shape))

    def close(self) -> None:
        """Before the weights move or go: captures know them by their address."""
        self._graphs.close()


def on_device(
    form: Form, longest: int, device: str, tell: Callable[[str], None], graph_bytes: int = GRAPH_BYTES
) -> Launcher:
    """For a network that lies on `device`."""
    return Launcher(form, longest, CudaBus(device), CudaCamera(device), graph_bytes=graph_bytes, tell=tell)
