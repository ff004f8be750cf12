"""A linear layer whose weights lie as the processor's matrix kernel wants them.

oneDNN multiplies by weights in blocks of its own order. Reordered once, at the load, they are not reordered in each
call, and the plain weights are let go: a layer holds its numbers once, and never in more bytes than before.
"""

from __future__ import annotations

import functools
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import torch
from torch import Tensor, nn

Activation = Literal["none", "gelu", "gelu_tanh", "relu"]

# (attribute, algorithm) of oneDNN's post-operations; they are applied while the result is still in the registers
FUSED: Final[dict[Activation, tuple[str, str]]] = {
    "none": ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
FINE_ROWS: Final = 128  # below it rows are rounded to STEP, above it to a sixteenth of the power of two below
STEP: Final = 4
FASTEST_BY_ITSELF: Final = "GenuineIntel"  # here MKL's float32 is as fast as oneDNN with reordered weights
CPUINFO: Final = Path("/proc/cpuinfo")


class Linear(nn.Module):
    """`activation(x @ weight.T + bias)`; `weight` is [out, in], reordered or not, and `x` is [..., in]."""

    weight: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x, self.activation)

    def plain(self, x: Tensor) -> Tensor:
        """Without the activation."""
        return self._product(x, "none")

    def _product(self, x: Tensor, activation: Activation) -> Tensor:
        if not self.weight.is_mkldnn:
            return activated(nn.functional.linear(x, self.weight, self.bias), activation)
        rows = x.numel() // x.shape[-1]
        if (wanted := rounded(rows)) != rows:
            flat = nn.functional.pad(x.reshape(rows, -1), (0, 0, 0, wanted - rows))
            return self._multiplied(flat, activation)[:rows].view(*x.shape[:-1], -1)
        return self._multiplied(x, activation)

    def added(self, x: Tensor, other: Tensor) -> Tensor:
        """`other + x @ weight.T + bias`, for a layer without an activation. Both are [rows, ...]."""
        if not self.weight.is_mkldnn or len(x) != rounded(len(x)):
            return other + self.forward(x)
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
        return total

    def reorder(self) -> None:
        """Reorders the weights, unless that would take more bytes: the kernel's blocks may be wider than the layer."""
        reordered = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().contiguous())
        if _bytes(reordered) <= self.weight.nbytes:
            del self.weight  # the parameter: what is reordered is none, for nothing may copy or move it
            self.weight = reordered

    def restore(self) -> None:
        """The plain weights again, as another device needs them."""
        if self.weight.is_mkldnn:
            plain = self.weight.to_dense()
            del self.weight
            self.weight = nn.Parameter(plain, requires_grad=False)

    def _multiplied(self, x: Tensor, activation: Activation) -> Tensor:
        attribute, algorithm = FUSED[activation]
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, attribute, [], algorithm)
        return out


class Joined(nn.Module):
    """Layers of the same input, their outputs side by side. `join` makes one layer of them, and copies weights."""

    def __init__(self, parts: Sequence[Linear]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=-1)

    def join(self) -> Linear:
        return joined(_linears(self))


def joined(parts: Sequence[Linear]) -> Linear:
    """Layers of the same input as one, their outputs side by side. All have a bias and the same activation."""
    weights = [part.weight.detach() for part in parts]
    biases = [part.bias.detach() for part in parts if part.bias is not None]
    return Linear(torch.cat(weights), torch.cat(biases), parts[0].activation)


def rounded(rows: int) -> int:
    """The number of rows that is really computed for `rows`: at most a sixteenth more, or three.

    oneDNN builds and keeps a kernel for each number of rows (about a millisecond, and 1,024 are kept): with few
    numbers they are all built soon, and stay.
    """
    step = STEP if rows < FINE_ROWS else 1 << (rows.bit_length() - 5)
    return -(-rows // step) * step


def can_reorder(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies numbers of this type on this processor."""
    if not torch._C._has_mkldnn or platform.machine() not in ("x86_64", "AMD64"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


def pays(dtype: torch.dtype, vendor: str | None = None) -> bool:
    """Whether reordering helps a network of separate layers. `vendor` is the processor's; None asks.

    Half precision is always reordered by oneDNN, in each call if not before. Float32 goes through MKL, which is slow
    on processors of other makes, and half as fast there as oneDNN.
    """
    return can_reorder(dtype) and (dtype != torch.float32 or (vendor or _vendor()) != FASTEST_BY_ITSELF)


def replace(network: nn.Module) -> None:
    """Puts layers with reordered weights in the place of torch's own, except where something else holds them too."""
    shared = _shared(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.data_ptr() not in shared and can_reorder(child.weight.dtype):
                setattr(parent, name, _reordered(child))


def restore(network: nn.Module) -> None:
    for layer in _linears(network):
        layer.restore()


def reordered_bytes(network: nn.Module) -> int:
    """Bytes of reordered weights, which are no parameters."""
    return sum(_bytes(layer.weight) for layer in _linears(network) if layer.weight.is_mkldnn)


def empty(network: nn.Module) -> None:
    """Lets the reordered weights go now."""
    for layer in _linears(network):
        if layer.weight.is_mkldnn:
            layer.weight = torch.empty(0)


def _linears(network: nn.Module) -> list[Linear]:
    return [module for module in network.modules() if isinstance(module, Linear)]


def _shared(network: nn.Module) -> set[int]:
    """Where the numbers lie that more than one module has (tied weights)."""
    held = Counter(
        parameter.data_ptr() for module in network.modules() for parameter in module.parameters(recurse=False)
    )
    return {place for place, times in held.items() if times > 1}


def _reordered(plain: nn.Linear) -> Linear:
    layer = Linear(plain.weight.detach(), None if plain.bias is None else plain.bias.detach())
    layer.reorder()
    return layer


def activated(x: Tensor, activation: Activation) -> Tensor:
    """What a layer that does not compute its activation itself leaves to do."""
    if activation == "gelu":
        return nn.functional.gelu(x)
    if activation == "gelu_tanh":
        return nn.functional.gelu(x, approximate="tanh")
    return nn.functional.relu(x) if activation == "relu" else x


def _bytes(reordered: Tensor) -> int:
    return int(torch.ops.mkldnn._nbytes(reordered))


@functools.cache
def _vendor() -> str:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
