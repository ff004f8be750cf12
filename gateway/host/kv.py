"""Keys and values of the rows that are being continued: one cache of a batch whose rows come and go.

Rows stand to the right, so that the next token of each has one place; what is left of a shorter row is padding, which
the mask hides. Buffers grow by blocks: a token more copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from gateway.host import library

BLOCK: Final = 128  # tokens by which a buffer grows


def empty(layers: int) -> Any:
    """A cache of transformers, of no row yet."""
    cache = library.transformers().cache_utils.DynamicCache()
    cache.layers = [_layer() for _ in range(layers)]
    return cache


def width(cache: Any) -> int:
    """Tokens of the longest row."""
    found: int = cache.layers[0].get_seq_length()
    return found


def joined(caches: Sequence[Any]) -> Any:
    """One cache of all rows, in this order; the shorter ones are padded on their left."""
    widest = max(map(width, caches))
    found = empty(len(caches[0].layers))
    for number, layer in enumerate(found.layers):
        layer.hold(
            _joined([cache.layers[number].keys for cache in caches], widest),
            _joined([cache.layers[number].values for cache in caches], widest),
        )
    return found


def kept(cache: Any, rows: Sequence[int], longest: int) -> Any:
    """Those rows, in this order, the longest of which has so many tokens."""
    found = empty(len(cache.layers))
    for new, old in zip(found.layers, cache.layers, strict=True):
        index = torch.tensor(rows, device=old.keys.device)
        begin = old.keys.shape[-2] - longest
        new.hold(old.keys[index, :, begin:], old.values[index, :, begin:])
    return found


def _joined(parts: Sequence[Tensor], widest: int) -> Tensor:
    first = parts[0]
    rows = sum(part.shape[0] for part in parts)
    found = first.new_zeros(rows, first.shape[1], widest, first.shape[3])
    start = 0
    for part in parts:
        found[start : start + part.shape[0], :, widest - part.shape[2] :] = part
        start += part.shape[0]
    return found


def _layer() -> Any:
    global _made  # noqa: PLW0603 - its base class is the library's, which is imported late
    if _made is None:
        _made = _make()
    return _made()


_made: Any = None


def _make() -> Any:
    base: Any = library.transformers().cache_utils.DynamicLayer

    class Layer(base):  # type: ignore[misc]  # the library has no types
        """[rows, heads, tokens, width] each, as views of buffers with room to grow."""

        keys: Tensor
        values: Tensor

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.hold(key_states, value_states)
            else:
                start = self.keys.shape[-2]
                end = start + key_states.shape[-2]
                if end > self.buffers[0].shape[-2]:
                    self.hold(self.keys, self.values, end)
                for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
                    buffer[:, :, start:end] = states
                self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
            return self.keys, self.values

        def hold(self, keys: Tensor, values: Tensor, tokens: int = 0) -> None:
            """Copied into buffers of its own, with room for so many tokens and some more."""
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
            room = -(-max(tokens, keys.shape[-2] + 1) // BLOCK) * BLOCK
            self.buffers = [states.new_empty(*states.shape[:2], room, states.shape[3]) for states in (keys, values)]
            for buffer, states in zip(self.buffers, (keys, values), strict=True):
                buffer[:, :, : states.shape[-2]] = states
            self.keys, self.values = (buffer[:, :, : keys.shape[-2]] for buffer in self.buffers)

    return Layer
