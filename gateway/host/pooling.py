"""Token vectors to one vector for each text: the modes of sentence-transformers, one function each.

A vector depends on its own tokens only: padding never reaches a sum, a maximum or a choice. Shapes: tokens
[batch, length, width], kept [batch, length] of 0 and 1, pooled [batch, width]. Padding is on the right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

NO_TOKENS: Final = 1e-9  # sentence-transformers' divisor for a text whose every token was left out


def pool(tokens: Tensor, kept: Tensor, modes: Sequence[str]) -> Tensor:
    """The vectors of all `modes`, concatenated in this order."""
    kept = kept.to(tokens.dtype)
    return torch.cat([MODES[mode](tokens, kept) for mode in modes], dim=-1)


def _first(tokens: Tensor, kept: Tensor) -> Tensor:
    return _chosen(tokens, kept.argmax(dim=1))


def _last(tokens: Tensor, kept: Tensor) -> Tensor:
    positions = torch.arange(kept.shape[1], device=kept.device)
    return _chosen(tokens * kept[..., None], (kept * positions).argmax(dim=1))


def _max(tokens: Tensor, kept: Tensor) -> Tensor:
    return tokens.masked_fill(kept[..., None] == 0, float("-inf")).amax(dim=1)


def _mean(tokens: Tensor, kept: Tensor) -> Tensor:
    return _sum(tokens, kept) / kept.sum(dim=1, keepdim=True).clamp(min=NO_TOKENS)


def _mean_sqrt(tokens: Tensor, kept: Tensor) -> Tensor:
    return _sum(tokens, kept) / kept.sum(dim=1, keepdim=True).clamp(min=NO_TOKENS).sqrt()


def _weighted_mean(tokens: Tensor, kept: Tensor) -> Tensor:
    weights = kept * torch.arange(1, kept.shape[1] + 1, device=kept.device)
    return _sum(tokens, weights) / weights.sum(dim=1, keepdim=True).clamp(min=NO_TOKENS)


def _sum(tokens: Tensor, weights: Tensor) -> Tensor:
    return (tokens * weights[..., None]).sum(dim=1)


def _chosen(tokens: Tensor, index: Tensor) -> Tensor:
    return tokens[torch.arange(tokens.shape[0], device=tokens.device), index]


MODES: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
