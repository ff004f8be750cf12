"""A loaded embedding model: token ids in, vectors out, with the numerics of sentence-transformers in float32.

A vector does not depend on the texts that shared its batch. In half precision the network alone is: what comes behind
it, pooling first, is float32. Everything here that touches a device runs on its lane.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gateway.errors import InvalidDimensions, LoadFailed
from gateway.host import forms, launcher, linear, memory, native, padded, pairs, reranker, stages
from gateway.host.arena import Arena
from gateway.host.launcher import Launcher
from gateway.host.mixed import Changes
from gateway.host.native import Native
from gateway.host.padded import Padded
from gateway.host.segments import Integers
from gateway.host.tokenize import TokenIds, Tokenizer
from gateway.model import Generation, Manifest, Pooling
from gateway.volume.directory import unchanged

Vectors = npt.NDArray[np.float32]
Dtype = Literal["float32", "bfloat16", "float16"]

DTYPES: Final[dict[Dtype, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Short and long, of few and of many kinds of tokens. Their tokens are most of what a small model's load takes.
PROBE_TEXTS: Final = ("the beam is stored in the ring", "a poem about autumn leaves", "7", "x-ray " * 10)
TINY_NORM: Final = 1e-12


class Runtime(Protocol):
    """A loaded generation, as the batcher and the pool see it.

    `bytes` are those on the device; `packed` says that a call costs its tokens, and not its texts times the longest.
    """

    bytes: int
    packed: bool

    def embed(self, batch: Sequence[TokenIds], prompt_tokens: Sequence[int] | int = 0) -> Vectors:
        """[len(batch), dim]. `prompt_tokens` (each text's, or one for all) are left out of pooling if the model says
        so. Raises memory.OutOfMemory."""

    def token_vectors(self, batch: Sequence[TokenIds]) -> list[Vectors]:
        """For each text [tokens, width], before the pooling. Raises memory.OutOfMemory."""

    def close(self) -> None:
        """Returns when the memory is free again."""


class Encoder:
    """The torch runtime of one encoder. It begins in host memory; `place` moves it to its device."""

    def __init__(self, network: Native | Padded, tail: nn.Sequential, manifest: Manifest, pooling: Pooling) -> None:
        self.device = "cpu"
        self.dim = manifest.dim
        self._longest = manifest.max_tokens
        self.packed: bool = network.packed
        self._network = network
        self._tail = tail
        self.pooling = pooling
        self._arena: Arena | None = None  # once it has been on a GPU
        self.launcher: Launcher | None = None  # while it is on a GPU
        self.bytes = self._bytes()

    def place(self, device: str) -> None:
        """To `device`, from wherever it is; what left a GPU waits in page-locked memory. Raises memory.OutOfMemory, and
        then holds nothing anywhere."""
        if device == self.device:
            return
        self._leave_gpu()
        try:
            with memory.guarded():
                self._move(device)
        except memory.OutOfMemory:
            self.close()
            memory.release(device)
            raise
        self.device = device
        self.bytes = self._bytes()
        if memory.on_cuda(device):
            form = forms.of(self._network, self._tail, self.pooling, device)
            self.launcher = launcher.on_device(form, self._longest, device, _told)
            self.bytes += launcher.GRAPH_BYTES
            self.packed = form.flash

    def park(self) -> None:
        """Off the device, into host memory, from where `place` brings it back at the speed of the bus."""
        self.place("cpu")

    def tidy(self) -> None:
        """Gives back the host memory that `place` came from. On any thread: it takes as long as the copy did."""
        if self._arena:
            self._arena.tidy()

    def embed(self, batch: Sequence[TokenIds], prompt_tokens: Sequence[int] | int = 0) -> Vectors:
        """See Runtime."""
        if not batch:
            return np.empty((0, self.dim), dtype=np.float32)
        left_out = 0 if self.pooling.include_prompt else prompt_tokens
        counts = np.broadcast_to(np.asarray(left_out, dtype=np.int64), len(batch))
        if self.launcher:
            return self.launcher.begin(batch, counts).wait()
        with memory.guarded(), torch.inference_mode():
            vectors: Tensor = self._tail(self._network.pooled(batch, counts))
            return vectors.numpy()

    def token_vectors(self, batch: Sequence[TokenIds]) -> list[Vectors]:
        """See Runtime."""
        if self.launcher:
            return [tokens.numpy() for tokens in self.launcher.tokens(batch)]
        with memory.guarded(), torch.inference_mode():
            return [tokens.numpy() for tokens in self._network.token_vectors(batch)]

    @property
    def takes_adapters(self) -> bool:
        """Whether its forward pass is one that adapters can change."""
        return isinstance(self._network, Native)

    @property
    def dtype(self) -> torch.dtype:
        """That the network computes in."""
        return next(self._network.parameters()).dtype

    def changed(
        self,
        batch: Sequence[TokenIds],
        left_out: Integers,
        changes: Changes,
        tails: Sequence[nn.Sequential | None],
    ) -> Vectors:
        """As `embed`, changed by adapters; of a network that takes them. `tails` are each text's modules behind the
        pooling, None for the base's. Raises memory.OutOfMemory."""
        assert isinstance(self._network, Native), "the caller has asked whether it takes adapters"
        with memory.guarded(), torch.inference_mode():
            if self.launcher:
                pooled = self.launcher.pooled(batch, left_out, changes)
            else:
                pooled = self._network.pooled(batch, left_out, changes)
            return stages.apart(pooled, [tail or self._tail for tail in tails]).cpu().numpy()

    def changed_tokens(self, batch: Sequence[TokenIds], changes: Changes) -> list[Vectors]:
        """As `token_vectors`, changed by adapters."""
        assert isinstance(self._network, Native), "the caller has asked whether it takes adapters"
        with memory.guarded(), torch.inference_mode():
            if self.launcher:
                return [tokens.numpy() for tokens in self.launcher.tokens(batch, changes)]
            return [tokens.numpy() for tokens in self._network.token_vectors(batch, changes)]

    def wants_pause(self, *, busy: bool) -> bool:
        """Whether `use_pause` is worth its time now; `busy` says that somebody waits. Any thread may ask."""
        if self.launcher is not None:
            return self.launcher.wants_pause(busy=busy)
        return isinstance(self._network, Native) and self._network.to_reorder

    def use_pause(self) -> None:
        """Makes later calls faster by one step: a capture on a GPU, a layer of reordered weights on a CPU."""
        if self.launcher:
            self.launcher.use_pause()
        elif isinstance(self._network, Native):
            self._network.reorder_one()

    def close(self) -> None:
        """Frees the weights, also where a reference to the network is left somewhere."""
        self._leave_gpu()
        if isinstance(self._network, Native):
            self._network.empty()
        padded.empty(self._network, self._tail)
        if self._arena:
            self._arena.free()
        self.bytes = 0
        memory.release(self.device)

    def _move(self, device: str) -> None:
        if self._arena is None:
            linear.restore(self._network)
            parts = (self._network, self._tail)
            self._arena = Arena(tensor for part in parts for tensor in (*part.parameters(), *part.buffers()))
        self._arena.move(device)

    def _leave_gpu(self) -> None:
        """Captures know the weights by their address, and go before these move."""
        if self.launcher:
            self.launcher.close()
        self.launcher = None

    def _bytes(self) -> int:
        if self._arena:
            return self._arena.bytes
        parts = (self._network, self._tail)
        return sum(memory.tensor_bytes(part) + linear.reordered_bytes(part) for part in parts)


def _told(why: str) -> None:
    print(f"no CUDA graphs for this model: {why}", file=sys.stderr, flush=True)


def finish(vectors: Vectors, *, normalize: bool = False, dimensions: int | None = None) -> Vectors:
    """What one request asked for: the first `dimensions` numbers of each vector, then unit length if `normalize`.

    A cut vector is not of unit length any more: pass `normalize` for a model that normalizes. Raises
    InvalidDimensions outside 1..dim.
    """
    if dimensions is not None:
        dim = vectors.shape[1]
        if not 1 <= dimensions <= dim:
            raise InvalidDimensions(f"dimensions must lie between 1 and {dim}", dimensions=dimensions, dim=dim)
        vectors = vectors[:, :dimensions]
    if not normalize:
        return np.ascontiguousarray(vectors)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(norms, TINY_NORM)
    return unit


def load(generation: Generation, device: str, dtype: Dtype = "float32") -> Encoder:
    """`read`, and then to `device`."""
    encoder = read(generation, device, dtype)
    encoder.place(device)
    return encoder


def read(generation: Generation, device: str, dtype: Dtype = "float32") -> Encoder:
    """Disk to host memory, with the network's numbers in `dtype` and as `device` will want them. Raises LoadFailed, or
    memory.OutOfMemory. One at a time in a process (see `padded`); `place` on another device may run meanwhile."""
    _demand_unchanged(generation)
    # the mean is what sentence-transformers takes for a plain transformer
    modes = (stage for stage in generation.manifest.stages if isinstance(stage, Pooling))
    pooling = next(modes, Pooling(("mean",)))
    with memory.guarded():
        network = _network(generation, pooling, DTYPES[dtype], reorder=not memory.on_cuda(device))
        try:
            tail = stages.build(generation.path, generation.manifest.stages, mapped=generation.place is None)
            _demand_unchanged(generation)
        except BaseException:
            padded.empty(network)
            raise
    return Encoder(network, tail.eval(), generation.manifest, pooling)


def _network(generation: Generation, pooling: Pooling, dtype: torch.dtype, *, reorder: bool) -> Native | Padded:
    """Our own forward pass where we have one for exactly this model, else that of transformers."""
    if generation.manifest.kind == "reranker":
        return reranker.read(generation, dtype, reorder=reorder)
    try:
        found = native.read(generation, pooling, dtype, reorder=reorder)
    except (OSError, ValueError) as error:
        message = f"{generation.manifest.architecture} could not be loaded: {error}"
        raise LoadFailed(message, reason="weights_unreadable", generation=generation.short) from error
    return found or padded.read(generation, pooling, dtype, reorder=reorder)


def _demand_unchanged(generation: Generation) -> None:
    """What is served in place is the accepted content only if the directory is the same before and after the load."""
    if generation.place is not None and not unchanged(generation.path, generation.place):
        message = "the directory, which is served in place, has changed; it is judged anew once it has settled"
        raise LoadFailed(message, reason="changed_in_place", generation=generation.short)


class Embeds(Protocol):
    """What can be probed."""

    def embed(self, batch: Sequence[TokenIds], /) -> Vectors: ...


def probe(encoder: Embeds, tokenizer: Tokenizer, manifest: Manifest) -> None:
    """Embeds fixed texts and looks at the vectors; of a reranker, scores pairs and looks at the scores.

    Raises LoadFailed, its `reason` naming what was wrong.
    """
    if manifest.kind == "reranker":
        _demand_scores(encoder.embed(pairs.encode(tokenizer, PROBE_TEXTS[0], PROBE_TEXTS)))
        return
    vectors = encoder.embed(tokenizer.encode(PROBE_TEXTS))
    norms = np.linalg.norm(vectors, axis=1)
    if vectors.shape[1] != manifest.dim:
        message = f"vectors have {vectors.shape[1]} numbers where the directory says {manifest.dim}"
        raise LoadFailed(message, reason="probe_dimension")
    if not np.isfinite(vectors).all():
        raise LoadFailed("vectors are not finite: the weights hold NaN or overflow", reason="probe_not_finite")
    if not (norms > 0).all():
        raise LoadFailed("vectors are zero", reason="probe_zero")
    if np.allclose(vectors, vectors[0], rtol=0, atol=1e-6 * float(norms.max())):
        raise LoadFailed("different texts give the same vector", reason="probe_same")
    if manifest.normalized and np.abs(norms - 1).max() > 1e-3:
        raise LoadFailed("vectors are not of unit length behind a Normalize module", reason="probe_not_unit")


def _demand_scores(scores: Vectors) -> None:
    if scores.shape[1] != 1:
        raise LoadFailed(f"a pair has {scores.shape[1]} scores", reason="probe_dimension")
    if not np.isfinite(scores).all():
        raise LoadFailed("scores are not finite: the weights hold NaN or overflow", reason="probe_not_finite")
    if np.allclose(scores, scores[0], rtol=0, atol=1e-6 * float(np.abs(scores).max())):
        raise LoadFailed("different pairs have the same score", reason="probe_same")
