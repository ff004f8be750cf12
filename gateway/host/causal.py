"""The network of a causal language model, as transformers has it: read whole, or refused.

Keys and values of its rows lie beside it on the device, up to a number of tokens that is set; what a model takes is
therefore its weights and that room.
"""

from __future__ import annotations

import os
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from gateway.errors import LoadFailed
from gateway.host import library, memory, padded, tensors
from gateway.host.sampling import Habits
from gateway.model import Generation

DEFAULTS: Final = "generation_config.json"


def read(generation: Generation, dtype: torch.dtype) -> nn.Module:
    """In host memory, its numbers in `dtype`. Raises LoadFailed, or memory.OutOfMemory. One load at a time in a process
    (see `padded`)."""
    with memory.guarded():
        module = padded.network(generation, dtype, head="generates")
        tensors.page_in(module)
        return module.eval()


class Manner(NamedTuple):
    """How a model ends its answers, and how it speaks when nobody says how."""

    endings: frozenset[int]
    habits: Habits


def manner(generation: Generation) -> Manner:
    """Of generation_config.json, else of config.json. Raises LoadFailed."""
    config = _generation_config(generation)
    ends = config.eos_token_id
    endings = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
    if not getattr(config, "do_sample", False):
        return Manner(endings, Habits())
    temperature, top_p, top_k = (getattr(config, name, None) for name in ("temperature", "top_p", "top_k"))
    return Manner(endings, Habits(1.0 if temperature is None else temperature, top_p or 1.0, top_k or 0))


def _generation_config(generation: Generation) -> Any:
    transformers = library.transformers()
    path = os.path.join(generation.path, generation.manifest.transformer_path)
    try:
        if os.path.exists(os.path.join(path, DEFAULTS)):
            return transformers.GenerationConfig.from_pretrained(path, **library.LOCAL)
        return transformers.AutoConfig.from_pretrained(path, **library.LOCAL)
    except Exception as error:  # the library has no list of what it raises
        message = f"the configuration could not be read: {error}"
        raise LoadFailed(message, reason="weights_unreadable", generation=generation.short) from error
