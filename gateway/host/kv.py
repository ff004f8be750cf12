"""Keys and values of the rows that are being continued: one cache of a batch whose rows come and go.

Rows stand to the right, so that the next token of each has one place; what is left of a shorter row is padding, which
the mask hides. Buffers grow by blocks: a token more copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

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


def joined(cache: Any, others: Any) -> Any:
    """One cache of all rows, those of `others` last; the shorter ones are padded on their left. `cache` is used up."""
    for layer, other in zip(cache.layers, others.layers, strict=True):
        layer.join(other.keys, other.values)
    return cache


def without(cache: Any, moves: Sequence[tuple[int, int]], rows: int, longest: int) -> None:
    """The first `rows` stay, after the `moves` (from, to) of those behind them into the places of others; the longest
    of them has so many tokens."""
    for layer in cache.layers:
        layer.leave(moves, rows, longest)


def room(tokens: int) -> int:
    """Columns of a buffer for so many."""
    return -(-tokens // BLOCK) * BLOCK


def put(place: Tensor, states: Tensor) -> None:
    """To the right of it, and zeros to their left: what no row has is hidden, and still has to be numbers."""
    start = place.shape[-2] - states.shape[-2]
    place[:, :, :start] = 0
    place[:, :, start:] = states


def _layer() -> Any:
    global _made  # noqa: PLW0603 - its base class is the library's, which is imported late
    if _made is None:
        _made = _make()
    return _made()


_made: Any = None


def _make() -> Any:
    base: Any = library.transformers().cache_utils.DynamicLayer

    class Layer(base):  # type: ignore[misc]  # the library has no types
        """[rows, heads, tokens, width] each, as views of buffers with room to grow: their first rows, and of these the
        columns up to `end`."""

        keys: Tensor
        values: Tensor

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                rows, _, tokens, _ = key_states.shape
                self.hold(key_states, value_states, rows=rows, end=tokens, tokens=tokens + 1)
            else:
                rows, _, before, _ = self.keys.shape
                more = key_states.shape[-2]
                if self.end + more > self.buffers[0].shape[-2]:
                    self.hold(self.keys, self.values, rows=rows, end=before, tokens=before + more)
                for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
                    buffer[:rows, :, self.end : self.end + more] = states
                self.see(rows, before + more, self.end + more)
            return self.keys, self.values

        def hold(self, keys: Tensor, values: Tensor, *, rows: int, end: int, tokens: int) -> None:
            """Copied, up to column `end`, into buffers of its own with room for so many rows and tokens."""
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
            held = (keys, values)
            self.buffers = [states.new_empty(rows, states.shape[1], room(tokens), states.shape[3]) for states in held]
            for buffer, states in zip(self.buffers, held, strict=True):
                put(buffer[: len(states), :, :end], states)
            self.see(len(keys), end, end)

        def see(self, rows: int, tokens: int, end: int) -> None:
            self.end = end
            self.keys, self.values = (buffer[:rows, :, end - tokens : end] for buffer in self.buffers)

        def join(self, keys: Tensor, values: Tensor) -> None:
            """More rows, behind the others; in the places of rows that have left, if there are enough."""
            rows, _, before, _ = self.keys.shape
            wider = max(before, keys.shape[-2])
            whole = rows + len(keys)
            if whole > len(self.buffers[0]) or wider > self.end:
                self.hold(self.keys, self.values, rows=whole, end=wider, tokens=wider + 1)
            elif wider > before:
                for buffer in self.buffers:
                    buffer[:rows, :, self.end - wider : self.end - before] = 0
            for buffer, states in zip(self.buffers, (keys, values), strict=True):
                put(buffer[rows:whole, :, self.end - wider : self.end], states)
            self.see(whole, wider, self.end)

        def leave(self, moves: Sequence[tuple[int, int]], rows: int, longest: int) -> None:
            for states in (self.keys, self.values):
                for source, target in moves:
                    states[target, :, -longest:] = states[source, :, -longest:]
            self.see(rows, longest, self.end)
            have, _, wide, _ = self.buffers[0].shape
            if 2 * rows * room(longest + 1) <= have * wide:
                self.hold(self.keys, self.values, rows=rows, end=longest, tokens=longest + 1)

    return Layer
