"""The network of any family that transformers knows, as transformers runs it: texts padded to the longest.

Every tensor comes from the directory or the load fails: transformers fills what is missing with noise. One load at a
time in a process: while transformers builds a model it replaces methods of its own classes, and two at once would
put each other's replacement back for good.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from gateway.errors import LoadFailed
from gateway.host import library, linear, planes, tensors
from gateway.host.pooling import pool
from gateway.host.segments import Integers
from gateway.model import Generation, Pooling

# Of encoder-decoder models the encoder alone makes the vectors.
ENCODER_ONLY: Final = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
Head = Literal["", "scores", "generates"]
POOLER: Final = "pooler"  # a head of its own behind the token vectors, which sentence embeddings do not use


class Padded(nn.Module):
    """Token ids to pooled vectors."""

    packed: Final = False  # a device call costs its texts times the longest of them

    def __init__(self, network: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.network = network
        self._pooling = pooling
        self._takes_types = "token_type_ids" in inspect.signature(network.forward).parameters
        self.pad_id: int = getattr(network.config, "pad_token_id", None) or 0

    def pooled(self, batch: Sequence[Integers], left_out: Integers) -> Tensor:
        """On a CPU: [texts, width * modes] in float32. `left_out` [texts] tokens at the head of each are not pooled."""
        block = planes.block(batch, left_out, (len(batch), max(map(len, batch))), self.pad_id)
        return self.vectors(*map(torch.from_numpy, (block.ids, block.mask, block.kept)))

    def vectors(self, ids: Tensor, mask: Tensor, kept: Tensor) -> Tensor:
        """Of a padded block, all [texts, length]: [texts, width * modes] in float32."""
        return pool(self.tokens(ids, mask).float(), kept, self._pooling.modes)

    def token_vectors(self, batch: Sequence[Integers]) -> list[Tensor]:
        """On a CPU: for each text its token vectors [tokens, width] in float32."""
        block = planes.block(batch, planes.nothing(batch), (len(batch), max(map(len, batch))), self.pad_id)
        tokens = self.tokens(torch.from_numpy(block.ids), torch.from_numpy(block.mask)).float()
        return [row[: len(ids)] for row, ids in zip(tokens, batch, strict=True)]

    def tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token vectors [texts, length, width]."""
        types = {"token_type_ids": torch.zeros_like(ids)} if self._takes_types else {}
        tokens: Tensor = self.network(input_ids=ids, attention_mask=mask, return_dict=True, **types)[0]
        return tokens


def read(generation: Generation, pooling: Pooling, dtype: torch.dtype, *, reorder: bool) -> Padded:
    """The network in host memory with its numbers in `dtype`. Raises LoadFailed."""
    module = network(generation, dtype)
    if reorder and linear.pays(dtype):
        linear.replace(module)
    tensors.page_in(module)
    return Padded(module.eval(), pooling)


def network(generation: Generation, dtype: torch.dtype, *, head: Head = "") -> nn.Module:
    """The network of transformers itself, or with the head behind it that scores or generates. Raises LoadFailed."""
    transformers = library.transformers()
    path = os.path.join(generation.path, generation.manifest.transformer_path)
    try:
        config = transformers.AutoConfig.from_pretrained(path, **library.LOCAL)
        config.use_cache = head == "generates"
        kind = _class(transformers, config, head)
        options = _options(kind, config, dtype)
        if generation.manifest.quantization is not None:  # its library makes the tensors, where they are to be
            options["device_map"] = {"": "cpu"}
        found, report = kind.from_pretrained(**_source(generation, path), **options)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # the library has no list of what it raises
        message = f"{generation.manifest.architecture} could not be loaded: {error}"
        raise LoadFailed(message, reason="weights_unreadable", generation=generation.short) from error
    module: nn.Module = found.requires_grad_(False)
    try:
        _demand_every_weight(report, generation, but="" if head else POOLER)
    except LoadFailed:
        empty(module)
        raise
    return module


def empty(*modules: nn.Module) -> None:
    """Gives their memory back now: a network is full of cycles, and the collector may come late."""
    for module in modules:
        linear.empty(module)
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.new_empty(0)


def _class(transformers: Any, config: Any, head: Head) -> Any:
    if head == "scores":
        return transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    if head == "generates":
        return transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if name := ENCODER_ONLY.get(config.model_type):
        return getattr(transformers, name)
    return transformers.MODEL_MAPPING[type(config)]


def _source(generation: Generation, path: str) -> dict[str, Any]:
    """Where the weights come from: mapped by us, or read by the library where they are no plain tensors."""
    weights = generation.manifest.weights
    if generation.manifest.quantization is not None:
        return {"pretrained_model_name_or_path": path, "use_safetensors": True}
    if any(name.endswith(".bin") for name in weights):
        return {"pretrained_model_name_or_path": path, "use_safetensors": False}
    paths = [os.path.join(generation.path, name) for name in weights]
    state = tensors.read_all(paths, mapped=generation.place is None)
    return {"pretrained_model_name_or_path": None, "state_dict": state}


def _options(kind: Any, config: Any, dtype: torch.dtype) -> dict[str, Any]:
    options = {
        **library.LOCAL,
        "config": config,
        "dtype": dtype,
        "attn_implementation": "sdpa" if kind._supports_sdpa else "eager",
        "output_loading_info": True,
    }
    if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        options["add_pooling_layer"] = False
    return options


def _demand_every_weight(report: dict[str, Any], generation: Generation, *, but: str) -> None:
    missing = sorted(name for name in report["missing_keys"] if but not in name.split("."))
    if not missing:
        return
    named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    message = f"the weights lack {named}: copy the whole model, or the one that belongs to this config.json"
    raise LoadFailed(message, reason="weights_missing", generation=generation.short, tensors=missing)
