"""A loaded embedding model: token ids in, vectors out, with the numerics of sentence-transformers in float32.

Every tensor comes from the directory or the load fails: transformers fills what is missing with noise. A vector
does not depend on the texts that shared its batch. Everything here that touches a device runs on its lane.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gateway.errors import InvalidDimensions, LoadFailed
from gateway.host import library, memory, stages, tensors
from gateway.host.pooling import pool, without_prompt
from gateway.host.tokenize import TokenIds, Tokenizer
from gateway.model import Generation, Manifest, Pooling
from gateway.volume.directory import unchanged

Vectors = npt.NDArray[np.float32]

# Of encoder-decoder models the encoder alone makes the vectors.
ENCODER_ONLY: Final = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
POOLER: Final = "pooler"  # a head of its own behind the token vectors, which sentence embeddings do not use
PROBE_TEXTS: Final = ("the beam is stored in the ring", "a poem about autumn leaves", "7", "x-ray " * 40)
PAGE_BYTES: Final = 4096
TINY_NORM: Final = 1e-12


class Runtime(Protocol):
    """A loaded generation, as the batcher and the pool see it. `bytes` are those on the device."""

    bytes: int

    def embed(self, batch: Sequence[TokenIds], prompt_tokens: Sequence[int] | int = 0) -> Vectors:
        """[len(batch), dim]. `prompt_tokens` (each text's, or one for all) are left out of pooling if the model says
        so. Raises memory.OutOfMemory."""

    def close(self) -> None:
        """Returns when the memory is free again."""


class Encoder:
    """The torch runtime of one encoder. It begins in host memory; `place` moves it to its device."""

    def __init__(self, network: nn.Module, tail: nn.Sequential, manifest: Manifest) -> None:
        self.device = "cpu"
        self.dim = manifest.dim
        self._network = network
        self._tail = tail
        # the mean is what sentence-transformers takes for a plain transformer
        self._pooling = next((stage for stage in manifest.stages if isinstance(stage, Pooling)), Pooling(("mean",)))
        self._takes_types = "token_type_ids" in inspect.signature(network.forward).parameters
        self._pad_id: int = getattr(network.config, "pad_token_id", None) or 0
        self.bytes = memory.tensor_bytes(network) + memory.tensor_bytes(tail)

    def place(self, device: str) -> None:
        """Host memory to `device`. Raises memory.OutOfMemory, and then holds nothing there."""
        self.device = device
        try:
            with memory.guarded():
                self._network.to(device)
                self._tail.to(device)
        except memory.OutOfMemory:
            self.close()
            raise

    def embed(self, batch: Sequence[TokenIds], prompt_tokens: Sequence[int] | int = 0) -> Vectors:
        """See Runtime."""
        if not batch:
            return np.empty((0, self.dim), dtype=np.float32)
        with memory.guarded(), torch.inference_mode():
            ids, mask = (self._placed(array) for array in padded(batch, self._pad_id))
            kept = mask
            if not self._pooling.include_prompt and np.any(prompt_tokens):
                counts = np.broadcast_to(np.asarray(prompt_tokens, dtype=np.int64), len(batch)).copy()
                kept = without_prompt(mask, self._placed(counts))
            vectors: Tensor = self._tail(pool(self._tokens(ids, mask), kept, self._pooling.modes))
            return vectors.cpu().numpy()

    def close(self) -> None:
        """Frees the weights, also where a reference to the network is left somewhere."""
        _empty(self._network, self._tail)
        self.bytes = 0
        memory.release(self.device)

    def _tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token vectors [batch, length, width]."""
        types = {"token_type_ids": torch.zeros_like(ids)} if self._takes_types else {}
        tokens: Tensor = self._network(input_ids=ids, attention_mask=mask, return_dict=True, **types)[0]
        return tokens

    def _placed(self, array: npt.NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(array)
        if memory.on_cuda(self.device):  # from pinned memory the copy does not wait for the device
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


def padded(batch: Sequence[TokenIds], pad_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids and attention mask, both [len(batch), longest], padded on the right."""
    lengths = np.array([len(ids) for ids in batch])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate(batch)
    return ids, mask.astype(np.int64)


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


def load(generation: Generation, device: str) -> Encoder:
    """Disk to host memory, in float32, then to `device`. Raises LoadFailed, or memory.OutOfMemory.

    One at a time in a process: while transformers builds a model it replaces methods of its own classes, and two at
    once would put each other's replacement back for good. `place` on another device may run meanwhile.
    """
    _demand_unchanged(generation)
    with memory.guarded():
        network = _network(generation)
        try:
            tail = stages.build(generation.path, generation.manifest.stages, mapped=generation.place is None)
            _page_in(network)
            _demand_unchanged(generation)
        except BaseException:
            _empty(network)
            raise
    encoder = Encoder(network.eval(), tail.eval(), generation.manifest)
    encoder.place(device)
    return encoder


def _demand_unchanged(generation: Generation) -> None:
    """What is served in place is the accepted content only if the directory is the same before and after the load."""
    if generation.place is not None and not unchanged(generation.path, generation.place):
        message = "the directory, which is served in place, has changed; it is judged anew once it has settled"
        raise LoadFailed(message, reason="changed_in_place", generation=generation.short)


def _empty(*modules: nn.Module) -> None:
    """Gives their memory back now: a network is full of cycles, and the collector may come late."""
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.new_empty(0)


def _page_in(network: nn.Module) -> None:
    """Reads one number of each page: safetensors only maps the file, and the device lane must not wait for a disk."""
    for tensor in network.parameters():
        tensor.flatten()[:: PAGE_BYTES // tensor.element_size()].sum()


def _network(generation: Generation) -> nn.Module:
    transformers = library.transformers()
    path = os.path.join(generation.path, generation.manifest.transformer_path)
    try:
        config = transformers.AutoConfig.from_pretrained(path, **library.LOCAL)
        config.use_cache = False
        kind = _class(transformers, config)
        network, report = kind.from_pretrained(**_source(generation, path), **_options(kind, config))
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # the library has no list of what it raises
        message = f"{generation.manifest.architecture} could not be loaded: {error}"
        raise LoadFailed(message, reason="weights_unreadable", generation=generation.short) from error
    module: nn.Module = network.requires_grad_(False)
    try:
        _demand_every_weight(report, generation)
    except LoadFailed:
        _empty(module)
        raise
    return module


def _class(transformers: Any, config: Any) -> Any:
    if name := ENCODER_ONLY.get(config.model_type):
        return getattr(transformers, name)
    return transformers.MODEL_MAPPING[type(config)]


def _source(generation: Generation, path: str) -> dict[str, Any]:
    """Where the weights come from: mapped by us, or unpickled by the library."""
    weights = generation.manifest.weights
    if any(name.endswith(".bin") for name in weights):
        return {"pretrained_model_name_or_path": path, "use_safetensors": False}
    paths = [os.path.join(generation.path, name) for name in weights]
    state = tensors.read_all(paths, mapped=generation.place is None)
    return {"pretrained_model_name_or_path": None, "state_dict": state}


def _options(kind: Any, config: Any) -> dict[str, Any]:
    options = {
        **library.LOCAL,
        "config": config,
        "dtype": torch.float32,
        "attn_implementation": "sdpa" if kind._supports_sdpa else "eager",
        "output_loading_info": True,
    }
    if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        options["add_pooling_layer"] = False
    return options


def _demand_every_weight(report: dict[str, Any], generation: Generation) -> None:
    missing = sorted(name for name in report["missing_keys"] if POOLER not in name.split("."))
    if not missing:
        return
    named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    message = f"the weights lack {named}: copy the whole model, or the one that belongs to this config.json"
    raise LoadFailed(message, reason="weights_missing", generation=generation.short, tensors=missing)


def probe(encoder: Runtime, tokenizer: Tokenizer, manifest: Manifest) -> None:
    """Embeds fixed texts and looks at the vectors. Raises LoadFailed, its `reason` naming what was wrong."""
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
