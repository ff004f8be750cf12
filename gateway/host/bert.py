"""The forward pass of BERT and its relatives over rows of tokens, without padding and in few, large operations.

The numbers are those of transformers' own modules: post-norm layers, queries, keys and values in one product, the
activation and the residual sums inside the products. What attends to what is the caller's: see `attention`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gateway.host.attention import Attend, Bias, relative
from gateway.host.blueprint import Blueprint
from gateway.host.linear import Joined, Linear, activated
from gateway.host.lora import Place
from gateway.host.mixed import Changed


class Norm(nn.Module):
    """Layer normalisation over the last axis."""

    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self._epsilon = epsilon
        self._shape = list(weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self._shape, self.weight, self.bias, self._epsilon)


class Layer(nn.Module):
    def __init__(
        self, *, qkv: Linear | Joined, out: Linear, out_norm: Norm, inner: Linear, outer: Linear, outer_norm: Norm
    ) -> None:
        super().__init__()
        self.qkv = qkv
        self.out = out
        self.out_norm = out_norm
        self.inner = inner
        self.outer = outer
        self.outer_norm = outer_norm

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        # `.forward` and not a call: torch's hooks, which nobody has here, cost more than some of these steps
        x = self.out_norm.forward(self.out.added(attend(self.qkv.forward(x)), x))
        return self.outer_norm.forward(self.outer.added(self.inner.forward(x), x))

    def changed(self, x: Tensor, attend: Attend, change: Changed) -> Tensor:
        """`forward`, with what adapters change of it."""
        qkv = self.qkv.forward(x)
        change.apply("qkv", x, qkv)
        x = self.out_norm.forward(_added(self.out, "out", attend(qkv), x, change))
        inner = self._inner(x, change)
        return self.outer_norm.forward(_added(self.outer, "outer", inner, x, change))

    def _inner(self, x: Tensor, change: Changed) -> Tensor:
        if not change.touches("inner"):
            return self.inner.forward(x)
        product = self.inner.plain(x)
        change.apply("inner", x, product)
        return activated(product, self.inner.activation)

    def reorder(self) -> None:
        """The weights as the processor's kernel wants them, which no caller sees but by the time that it takes."""
        if isinstance(self.qkv, Joined):
            self.qkv = self.qkv.join()
        for part in (self.qkv, self.out, self.inner, self.outer):
            part.reorder()


def _added(linear: Linear, place: Place, x: Tensor, other: Tensor, change: Changed) -> Tensor:
    """`other + linear(x)`, changed."""
    if not change.touches(place) or change.additive(place):
        total = linear.added(x, other)
        change.apply(place, x, total)
        return total
    product = linear.forward(x)
    change.apply(place, x, product)
    return product.add_(other)


class Bert(nn.Module):
    """`words` [vocab, width] and `places` [positions, width], into which the vector of token type 0 is summed already.

    `bias` [buckets, heads] is MPNet's.
    """

    def __init__(
        self, plan: Blueprint, *, words: Tensor, places: Tensor, norm: Norm, layers: list[Layer], bias: Tensor | None
    ) -> None:
        super().__init__()
        self.plan = plan
        self.words = nn.Parameter(words, requires_grad=False)
        self.places = nn.Parameter(places, requires_grad=False)
        self.norm = norm
        self.layers = nn.ModuleList(layers)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.words.dtype

    def relative_bias(self) -> Bias | None:
        return None if self.bias is None else relative(self.bias)

    def forward(
        self, ids: Tensor, positions: Tensor, attend: Attend, changes: Sequence[Changed] | None = None
    ) -> Tensor:
        """Token vectors [rows, width] in the network's type; `ids` and `positions` are [rows], `changes` for each
        block."""
        x: Tensor = self.norm(
            nn.functional.embedding(ids, self.words) + nn.functional.embedding(positions, self.places)
        )
        if changes is None:
            for layer in self.layers:
                x = layer(x, attend)
            return x
        for layer, change in zip(self.layers, changes, strict=True):
            x = layer.changed(x, attend, change)  # type: ignore[operator]  # torch says that it may be a tensor
        return x
