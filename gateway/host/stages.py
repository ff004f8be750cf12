"""What comes behind the pooling: the Dense, LayerNorm and Normalize modules of sentence-transformers.

Each is made from its entry in the manifest and the tensors in its folder, and refuses to load with one tensor
missing or of another shape: a random layer would serve noise that looks like vectors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gateway.errors import LoadFailed
from gateway.host import tensors
from gateway.model import Dense, LayerNorm, Normalize, Pooling, Stage

Vectors = npt.NDArray[np.float32]


class Projection(nn.Module):
    """`activation(linear(x))`; the linear layer's name is the one in the files."""

    def __init__(self, stage: Dense) -> None:
        super().__init__()
        self.linear = nn.Linear(stage.in_features, stage.out_features, bias=stage.bias, device="meta")
        self.activation = activation(stage.activation)

    def forward(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.activation(self.linear(vectors))
        return out


class Norm(nn.Module):
    def __init__(self, stage: LayerNorm) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(stage.dimension, device="meta")

    def forward(self, vectors: Tensor) -> Tensor:
        out: Tensor = self.norm(vectors)
        return out


class UnitLength(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, p=2, dim=-1)


def activation(name: str) -> nn.Module:
    """The activation of this class name. Raises LoadFailed for anything but a plain one of torch."""
    found = nn.Identity if name == "Identity" else getattr(nn.modules.activation, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise LoadFailed(f"no such activation: {name}", reason="unknown_activation", activation=name)
    return found()


def activated(scores: Vectors, name: str) -> Vectors:
    """What the activation of this class name makes of float32 numbers."""
    with torch.inference_mode():
        found: Vectors = activation(name)(torch.from_numpy(scores)).numpy()
        return found


def apart(pooled: Tensor, tails: Sequence[nn.Sequential]) -> Tensor:
    """What comes of each row [rows, width] behind its own modules, of which all give as many numbers."""
    places: dict[nn.Sequential, list[int]] = {}
    for row, tail in enumerate(tails):
        places.setdefault(tail, []).append(row)
    if len(places) == 1:
        vectors: Tensor = tails[0](pooled)
        return vectors
    order = torch.tensor([row for rows in places.values() for row in rows], device=pooled.device)
    parts = torch.split(pooled[order], [len(rows) for rows in places.values()])
    found = torch.cat([tail(part) for tail, part in zip(places, parts, strict=True)])
    return torch.empty_like(found).index_copy_(0, order, found)


def build(path: str, stages: tuple[Stage, ...], *, mapped: bool = True) -> nn.Sequential:
    """The modules behind the pooling, on the CPU in float32. `path` is the model's directory; `mapped` as for
    `tensors.read`."""
    return nn.Sequential(*(_build(path, stage, mapped) for stage in stages if not isinstance(stage, Pooling)))


def _build(path: str, stage: Dense | LayerNorm | Normalize, mapped: bool) -> nn.Module:
    if isinstance(stage, Normalize):
        return UnitLength()
    module = Projection(stage) if isinstance(stage, Dense) else Norm(stage)
    found = {name: tensor.float() for name, tensor in _read(os.path.join(path, stage.path), mapped).items()}
    try:
        module.load_state_dict(found, assign=True)
    except RuntimeError as error:
        raise LoadFailed(f"{stage.path}: {error}", reason="stage_weights", folder=stage.path) from error
    return module.requires_grad_(False)


def _read(folder: str, mapped: bool) -> dict[str, Tensor]:
    file = os.path.join(folder, "model.safetensors")
    try:
        if os.path.exists(file):
            return tensors.read(file, mapped=mapped)
        unpickled: dict[str, Tensor] = torch.load(
            os.path.join(folder, "pytorch_model.bin"), map_location="cpu", weights_only=True
        )
    except Exception as error:  # neither library has a list of what it raises
        raise LoadFailed(f"{os.path.basename(folder)}: {error}", reason="stage_weights", folder=folder) from error
    return unpickled
