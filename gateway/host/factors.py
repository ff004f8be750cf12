"""The factors of an adapter, from its files: which layer of the network each belongs to, scaled, and DoRA's gains.

What the files are was judged when they were dropped. A pickle is seen here first, and the check is repeated for all: a
factor in the wrong place would change every vector, and nobody would know.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

from gateway.errors import LoadFailed
from gateway.host import native, tensors
from gateway.host.blueprint import Blueprint
from gateway.host.lora import Change, Lora, Piece, Place
from gateway.model import Generation
from gateway.volume import adapters
from gateway.volume.adapters import GAIN
from gateway.volume.fitting import SERVED

FIRST: Final = "lora_A"
SECOND: Final = "lora_B"


class Spot(NamedTuple):
    """A layer of the network: `outs` x `ins`, from column `begin` of what its place gives."""

    block: int
    place: Place
    begin: int
    outs: int
    ins: int


def read(generation: Generation, dtype: torch.dtype) -> Lora:
    """Disk to host memory. Raises LoadFailed, OSError, and ValueError for a file that is not whole."""
    assert generation.base is not None, "an adapter has a base"
    plan = native.blueprint_of(generation.base)
    if plan is None:
        message = "its base is unusual, and transformers runs it, which knows no adapters here: merge it into its base"
        raise LoadFailed(message, reason="base_not_supported", generation=generation.short)
    base = _Base(generation.base, plan)
    found: dict[tuple[int, Place], list[tuple[Spot, Tensor, Piece]]] = {}
    layers = _by_layer(generation)
    for name in sorted(layers, key=base.order):
        spot, first, piece = _layer(generation, base, name, layers[name])
        found.setdefault((spot.block, spot.place), []).append((spot, first, piece))
    blocks: list[dict[Place, Change]] = [{} for _ in range(plan.layers)]
    for (block, place), parts in found.items():
        blocks[block][place] = _joined([first for _, first, _ in parts], [piece for _, _, piece in parts], dtype)
    return Lora(blocks)


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


def _layer(generation: Generation, base: _Base, name: str, parts: Mapping[str, Tensor]) -> tuple[Spot, Tensor, Piece]:
    """Where a change belongs, its first factor, and the rest of it."""
    lora = generation.manifest.lora
    assert lora is not None, "an adapter's manifest says how it is scaled"
    spot, first, second = base.spot(name), parts.get(FIRST), parts.get(SECOND)
    if spot is None or first is None or second is None:
        raise _misfit(generation, f"{name} is no layer of its base that can be changed")
    rank = len(first)
    if first.shape != (rank, spot.ins) or second.shape != (spot.outs, rank):
        shapes = f"{list(first.shape)} and {list(second.shape)}"
        raise _misfit(generation, f"{name} has factors of {shapes} for a layer of [{spot.outs}, {spot.ins}]")
    alpha = adapters.alpha_of(name, lora)
    first, second = first.float(), second.float() * (alpha / (math.sqrt(rank) if lora.rslora else rank))
    gain = shift = None
    if lora.dora:
        gain, shift = base.gain(name, second @ first, parts[GAIN].flatten().float())
        second = second * gain[:, None]
    return spot, first, Piece(slice(spot.begin, spot.begin + spot.outs), slice(0, rank), second, gain, shift)


def _joined(firsts: list[Tensor], pieces: list[Piece], dtype: torch.dtype) -> Change:
    """The layers of one place together, in memory of their own."""
    placed = []
    begin = 0
    for first, (columns, _, second, gain, shift) in zip(firsts, pieces, strict=True):
        ranks = slice(begin, begin := begin + len(first))
        beside = (None if tensor is None else tensor.to(dtype) for tensor in (gain, shift))
        placed.append(Piece(columns, ranks, second.to(dtype), *beside))
    return Change(torch.cat(firsts).to(dtype), tuple(placed))


class _Base:
    """The layers of the base by the names that adapters know them by."""

    def __init__(self, generation: Generation, plan: Blueprint) -> None:
        names, width, inner = plan.names, plan.width, plan.inner
        self._generation = generation
        self._prefix = SERVED[generation.manifest.model_type]
        self._spots: dict[str, Spot] = {}
        self._plain: dict[str, Tensor] = {}
        for block in range(plan.layers):
            at = f"{names.layer}.{block}."
            for number, name in enumerate((names.query, names.key, names.value)):
                self._spots[at + name] = Spot(block, "qkv", number * width, width, width)
            self._spots[at + names.out] = Spot(block, "out", 0, width, width)
            self._spots[at + names.inner] = Spot(block, "inner", 0, inner, width)
            self._spots[at + names.outer] = Spot(block, "outer", 0, width, inner)

    def spot(self, name: str) -> Spot | None:
        return self._spots.get(name.removeprefix(self._prefix))

    def order(self, name: str) -> tuple[int, ...]:
        """Layers of one place stand in the order of their columns."""
        spot = self.spot(name)
        return (spot.block, spot.begin) if spot else (0, 0)

    def gain(self, name: str, change: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """DoRA's for one layer, and what of the layer's bias it leaves out: the length of each row of the changed
        weights is the magnitude. Source: peft/tuners/lora/dora.py"""
        bare = name.removeprefix(self._prefix)
        gain = magnitude / torch.linalg.norm(self._tensor(bare + ".weight") + change, dim=1)
        return gain, (1 - gain) * self._tensor(bare + ".bias")

    def _tensor(self, name: str) -> Tensor:
        if not self._plain:
            manifest, path = self._generation.manifest, self._generation.path
            held = tensors.read_all(
                (os.path.join(path, file) for file in manifest.weights), mapped=self._generation.place is None
            )
            self._plain = {key.removeprefix(self._prefix): tensor for key, tensor in held.items()}
        return self._plain[name].float()


def _misfit(generation: Generation, message: str) -> LoadFailed:
    return LoadFailed(message, reason="base_mismatch", generation=generation.short)
