"""Weights that a library quantized, run as that library runs them: transformers loads, the library computes.

Nothing here takes a tensor in its hands: what bitsandbytes and torchao call a tensor is one only to them. On the CPU.
"""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gateway.host import memory, padded, stages
from gateway.host.padded import Padded
from gateway.host.tokenize import TokenIds
from gateway.model import Generation, Manifest, Pooling

# Each says something for every load, import, or even call and layer, that a host's log can do without.
LOUD: Final = ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions", "torchao", "torch.utils._pytree")

Vectors = npt.NDArray[np.float32]


class Quantized:
    """See encoder.Runtime."""

    packed = False

    def __init__(self, network: Padded, tail: nn.Sequential, manifest: Manifest, pooling: Pooling) -> None:
        self.device = "cpu"
        self.dim = manifest.dim
        self.bytes = manifest.stored_bytes
        # bitsandbytes rounds what it computes with too, by the largest numbers of a call: its texts are not alone
        rounds = any(type(module).__name__ == "Linear8bitLt" for module in network.modules())
        self.dtype = "int8" if rounds else "float32"
        self._network: Padded | None = network
        self._tail = tail
        self._pooling = pooling

    def place(self, device: str) -> None:
        """It is where it runs."""
        assert device == self.device, "quantized weights are computed on the CPU"

    def park(self) -> None:
        """It is in host memory."""

    def embed(self, batch: Sequence[TokenIds], prompt_tokens: Sequence[int] | int = 0) -> Vectors:
        """See encoder.Runtime."""
        assert self._network is not None, "it was closed"
        if not batch:
            return np.empty((0, self.dim), dtype=np.float32)
        left_out = 0 if self._pooling.include_prompt else prompt_tokens
        counts = np.broadcast_to(np.asarray(left_out, dtype=np.int64), len(batch))
        with memory.guarded(), torch.inference_mode():
            vectors: Tensor = self._tail(self._network.pooled(batch, counts))
            return vectors.numpy()

    def token_vectors(self, batch: Sequence[TokenIds]) -> list[Vectors]:
        """See encoder.Runtime."""
        assert self._network is not None, "it was closed"
        with memory.guarded(), torch.inference_mode():
            return [tokens.numpy() for tokens in self._network.token_vectors(batch)]

    def close(self) -> None:
        """Frees the network, which is full of cycles. Nothing runs any more."""
        self._network = None
        self._tail = nn.Sequential()
        self.bytes = 0
        gc.collect()
        memory.release(self.device)


def load(generation: Generation) -> Quantized:
    """Raises LoadFailed, or memory.OutOfMemory. One at a time in a process, as `padded`."""
    pooling = next((stage for stage in generation.manifest.stages if isinstance(stage, Pooling)), Pooling(("mean",)))
    with memory.guarded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in LOUD:
            logging.getLogger(name).setLevel(logging.ERROR)
        network = padded.network(generation, torch.float32)
        tail = stages.build(generation.path, generation.manifest.stages, mapped=generation.place is None)
        return Quantized(Padded(network.eval(), pooling), tail.eval(), generation.manifest, pooling)
