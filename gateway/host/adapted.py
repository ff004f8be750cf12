"""An adapter that is loaded, and the same over its base: what requests for it lease and are computed by.

An adapter knows no network. Which one it changes is settled with each call, so it stays loaded while its base comes and
goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from torch import nn

from gateway.host import memory
from gateway.host.encoder import Encoder
from gateway.host.halving import column, halving
from gateway.host.lora import Lora
from gateway.host.mixed import Changes
from gateway.host.tokenize import TokenIds, Tokenizer
from gateway.host.wire import Numerics
from gateway.host.work import Mixer, Vectors
from gateway.model import Generation, Manifest, Pooling

MEAN: Final = Pooling(("mean",))


class Adapter:
    """`tail` are modules behind the pooling that are its own; None: the base's."""

    def __init__(
        self, generation: Generation, lora: Lora, tail: nn.Sequential | None, tokenizer: Tokenizer, numerics: Numerics
    ) -> None:
        self.generation = generation
        self.lora = lora
        self.tail = tail
        self.tokenizer = tokenizer
        self.numerics = numerics
        self.pooling = pooling_of(generation.manifest)

    @property
    def bytes(self) -> int:
        """Its own: nothing of the base is counted here."""
        return self.lora.bytes + (memory.tensor_bytes(self.tail) if self.tail else 0)

    def place(self, device: str) -> None:
        """Raises memory.OutOfMemory."""
        with memory.guarded():
            self.lora.to(device)
            if self.tail is not None:
                self.tail.to(device)

    def suit(self, encoder: Encoder) -> None:
        """The base may have gone and come back with numbers of another format."""
        if self.lora.dtype != encoder.dtype:
            self.lora.to(encoder.device, encoder.dtype)

    def close(self) -> None:
        self.lora.empty()
        self.tail = None


class Adapted:
    """An adapter over a base that is leased as long as this is used. Its texts share calls of the `mixer` if they are
    pooled as the base's are and their vectors are as long."""

    def __init__(self, adapter: Adapter, encoder: Encoder, base: Manifest, mixer: Mixer | None = None) -> None:
        self.adapter = adapter
        self.encoder = encoder
        self.tokens = AdaptedTokens(adapter, encoder)
        same = adapter.pooling.modes == pooling_of(base).modes
        self.mixer = mixer if same and adapter.generation.manifest.dim == base.dim else None

    @property
    def generation(self) -> Generation:
        return self.adapter.generation

    @property
    def tokenizer(self) -> Tokenizer:
        return self.adapter.tokenizer

    @property
    def packed(self) -> bool:
        return self.encoder.packed

    def embed(self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int] = ()) -> Vectors:
        """Token ids -> float32 [rows, dim]."""
        return embed(self.encoder, rows, prompt_tokens or [0] * len(rows), [self.adapter] * len(rows))


class AdaptedTokens:
    """The same, where vectors of single tokens are wanted."""

    def __init__(self, adapter: Adapter, encoder: Encoder) -> None:
        self._adapter = adapter
        self._encoder = encoder

    @property
    def packed(self) -> bool:
        return self._encoder.packed

    def embed(self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int]) -> Vectors:
        """-> [rows, 1] of objects, each float32 [tokens, width]."""
        return halving(self._encoder.device, self._embed, rows, prompt_tokens)

    def _embed(self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int]) -> Vectors:
        self._adapter.suit(self._encoder)
        owners = [self._adapter.lora] * len(rows)
        return column(self._encoder.changed_tokens(rows, Changes.by(owners, self._adapter.pooling.modes)))


def embed(
    encoder: Encoder, rows: Sequence[TokenIds], prompt_tokens: Sequence[int], owners: Sequence[Adapter | None]
) -> Vectors:
    """Each row's vector, changed by the adapter beside it; None: the base's own. All are pooled by the same modes."""

    def run(rows: Sequence[TokenIds], prompt_tokens: Sequence[int], owners: Sequence[Adapter | None]) -> Vectors:
        for adapter in {owner for owner in owners if owner is not None}:
            adapter.suit(encoder)
        pooling = [owner.pooling if owner else encoder.pooling for owner in owners]
        left_out = [0 if each.include_prompt else count for each, count in zip(pooling, prompt_tokens, strict=True)]
        changes = Changes.by([owner.lora if owner else None for owner in owners], pooling[0].modes)
        tails = [owner.tail if owner else None for owner in owners]
        return encoder.changed(rows, np.array(left_out, dtype=np.int64), changes, tails)

    return halving(encoder.device, run, rows, prompt_tokens, owners)


def pooling_of(manifest: Manifest) -> Pooling:
    """The mean, for a plain transformer."""
    return next((stage for stage in manifest.stages if isinstance(stage, Pooling)), MEAN)
