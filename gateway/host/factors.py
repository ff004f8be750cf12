"""The factors of an adapter, from its files: which layer of the network each belongs to, scaled, and DoRA's gains.

What the files are was judged when they were dropped. A pickle is seen here first, and the check is repeated for all: a
factor in the wrong place would change every vector, and nobody would know.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from gateway.errors import LoadFailed
from gateway.host import native, tensors
from gateway.host.blueprint import Blueprint
from gateway.host.lora import Change, Lora, Piece, Place
from gateway.host.stacks import Branches
from gateway.model import Generation
from gateway.volume import adapters
from gateway.volume.adapters import GAIN
from gateway.volume.fitting import prefix

FIRST: Final = "lora_A"
SECOND: Final = "lora_B"


class Size(NamedTuple):
    """Of a layer of the network."""

    outs: int
    ins: int


class Spot(NamedTuple):
    """A layer of the network, from column `begin` of what its place gives."""

    block: int
    place: Place
    begin: int
    size: Size


def read(generation: Generation, dtype: torch.dtype) -> Lora:
    """Disk to host memory. Raises LoadFailed, OSError, and ValueError for a file that is not whole."""
    assert generation.base is not None, "an adapter has a base"
    plan = native.blueprint_of(generation.base)
    if plan is None:
        message = "its base is unusual, and transformers runs it, which knows no adapters here: merge it into its base"
        raise LoadFailed(message, reason="base_not_supported", generation=generation.short)
    base, spots = _Base(generation.base), _spots(plan)
    found: dict[tuple[int, Place], list[tuple[Tensor, Piece]]] = {}
    layers = {base.bare(name): parts for name, parts in _by_layer(generation).items()}
    if strange := layers.keys() - spots.keys():
        raise _misfit(generation, f"{min(strange)} is no layer of its base that can be changed")
    for name in sorted(layers, key=lambda name: (spots[name].block, spots[name].begin)):
        spot = spots[name]
        part = _layer(generation, base, name, layers[name], size=spot.size, begin=spot.begin)
        found.setdefault((spot.block, spot.place), []).append(part)
    blocks: list[dict[Place, Change]] = [{} for _ in range(plan.layers)]
    for (block, place), parts in found.items():
        blocks[block][place] = _joined(parts, dtype)
    return Lora(blocks)


def read_branches(generation: Generation, dtype: torch.dtype) -> Branches:
    """As `read`, over a language model: by the names of its layers."""
    assert generation.base is not None, "an adapter has a base"
    base = _Base(generation.base)
    found = {}
    for name, parts in _by_layer(generation).items():
        size = base.size(base.bare(name))
        if size is None:
            raise _misfit(generation, f"{name} is no layer of its base that can be changed")
        found[base.prefix + base.bare(name)] = _joined(
            [_layer(generation, base, base.bare(name), parts, size=size)], dtype
        )
    return Branches(found)


def _by_layer(generation: Generation) -> dict[str, dict[str, Tensor]]:
    """Name of a layer -> the parts of its change."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _tensors(generation).items():
        if adapters.is_unused(name):
            continue
        part = adapters.part_of(name)
        if part is None:
            raise _misfit(generation, f"{name} is no factor of LoRA")
        found.setdefault(part[0], {})[part[1]] = tensor
    return found


def _tensors(generation: Generation) -> dict[str, Tensor]:
    paths = [os.path.join(generation.path, name) for name in generation.manifest.weights]
    if not any(path.endswith(".bin") for path in paths):
        return tensors.read_all(paths, mapped=generation.place is None)
    found: dict[str, Tensor] = {}
    for path in paths:
        try:
            found |= torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # the library has no list of what it raises
            raise LoadFailed(f"{os.path.basename(path)}: {error}", reason="weights_unreadable") from error
    return found


def _layer(
    generation: Generation, base: _Base, name: str, parts: Mapping[str, Tensor], *, size: Size, begin: int = 0
) -> tuple[Tensor, Piece]:
    """The first factor of a change of the layer, and the rest of it."""
    lora = generation.manifest.lora
    assert lora is not None, "an adapter's manifest says how it is scaled"
    first, second = parts.get(FIRST), parts.get(SECOND)
    if first is None or second is None:
        raise _misfit(generation, f"{name} has one of two factors")
    rank = len(first)
    if first.shape != (rank, size.ins) or second.shape != (size.outs, rank):
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise _misfit(generation, f"{name} has factors of {shapes} for a layer of {list(size)}")
    alpha = adapters.alpha_of(name, lora)
    first, second = first.float(), second.float() * (alpha / (math.sqrt(rank) if lora.rslora else rank))
    gain = shift = None
    if lora.dora:
        gain, shift = base.gain(name, second @ first, parts[GAIN].flatten().float())
        second = second * gain[:, None]
    return first, Piece(slice(begin, begin + size.outs), slice(0, rank), second, gain, shift)


def _joined(parts: Sequence[tuple[Tensor, Piece]], dtype: torch.dtype) -> Change:
    """The layers of one place together, in memory of their own."""
    placed = []
    begin = 0
    for first, (columns, _, second, gain, shift) in parts:
        ranks = slice(begin, begin := begin + len(first))
        beside = (None if tensor is None else tensor.to(dtype) for tensor in (gain, shift))
        placed.append(Piece(columns, ranks, second.to(dtype), *beside))
    return Change(torch.cat([first for first, _ in parts]).to(dtype), tuple(placed))


def _spots(plan: Blueprint) -> dict[str, Spot]:
    """The layers of a network that is ours, by the names that adapters know them by."""
    names, width, inner = plan.names, plan.width, plan.inner
    square, found = Size(width, width), {}
    for block in range(plan.layers):
        at = f"{names.layer}.{block}."
        for number, name in enumerate((names.query, names.key, names.value)):
            found[at + name] = Spot(block, "qkv", number * width, square)
        found[at + names.out] = Spot(block, "out", 0, square)
        found[at + names.inner] = Spot(block, "inner", 0, Size(inner, width))
        found[at + names.outer] = Spot(block, "outer", 0, Size(width, inner))
    return found


class _Base:
    """The tensors of the base, by their names without what stands before all of them."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self.prefix = prefix(generation.manifest)
        self._plain: dict[str, Tensor] = {}

    def bare(self, name: str) -> str:
        return name.removeprefix(self.prefix)

    def size(self, bare: str) -> Size | None:
        """None where there is no such linear layer."""
        found = self._tensors().get(bare + ".weight")
        return Size(*found.shape) if found is not None and found.dim() == 2 else None

    def gain(self, name: str, change: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """DoRA's for one layer, and what of the layer's bias it leaves out: the length of each row of the changed
        weights is the magnitude. Source: peft/tuners/lora/dora.py"""
        gain = magnitude / torch.linalg.norm(self._tensors()[name + ".weight"].float() + change, dim=1)
        bias = self._tensors().get(name + ".bias")
        return gain, torch.zeros_like(gain) if bias is None else (1 - gain) * bias.float()

    def _tensors(self) -> Mapping[str, Tensor]:
        if not self._plain:
            manifest, path = self._generation.manifest, self._generation.path
            held = tensors.read_all(
                (os.path.join(path, file) for file in manifest.weights), mapped=self._generation.place is None
            )
            self._plain = {self.bare(key): tensor for key, tensor in held.items()}
        return self._plain


def _misfit(generation: Generation, message: str) -> LoadFailed:
    return LoadFailed(message, reason="base_mismatch", generation=generation.short)
