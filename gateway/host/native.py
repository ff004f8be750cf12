"""The network of a BERT-like model as we run it ourselves: read without transformers, computed without padding.

What is unusual in any way - the config, the names, shapes or types of the tensors - makes `read` give None, and
transformers runs or refuses the model. So this module never refuses one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from gateway.host import linear, segments, tensors
from gateway.host.attention import BUCKETS, Grouped
from gateway.host.bert import Bert, Layer, Norm
from gateway.host.blueprint import Blueprint
from gateway.host.blueprint import read as read_blueprint
from gateway.host.crew import crew
from gateway.host.linear import Activation, Joined, Linear, joined
from gateway.host.mixed import Changes
from gateway.host.pooling import pool
from gateway.host.segments import Integers, Segments
from gateway.model import Generation, Pooling

STORED: Final = (torch.float32, torch.float16, torch.bfloat16)
LEAST_PART: Final = 64  # tokens below which a thread of its own costs more than it saves
FINE_PART: Final = 256  # tokens of which a thread computes as many in a second as of more
SLACK: Final = 1.3  # how much more than the mean one thread may have to do


class Native(nn.Module):
    """Token ids to pooled vectors."""

    packed: Final = True  # a device call costs its tokens, and no padding

    def __init__(self, bert: Bert, pooling: Pooling, *, late: bool = False) -> None:
        """`late`: its layers are reordered one by one, when there is time for it."""
        super().__init__()
        self.bert = bert
        self._pooling = pooling
        self._plain = [layer for layer in bert.layers if isinstance(layer, Layer)] if late else []

    @property
    def to_reorder(self) -> bool:
        """Whether there are layers whose weights lie as they came."""
        return bool(self._plain)

    def reorder_one(self) -> None:
        """Makes later calls faster, one layer at a time. On the thread of calls, which has the threads for it too."""
        if self._plain:
            self._plain.pop().reorder()

    def empty(self) -> None:
        """Nothing is left to be done; whoever asks for it frees the weights."""
        self._plain.clear()

    def pooled(self, batch: Sequence[Integers], left_out: Integers, changes: Changes | None = None) -> Tensor:
        """On a CPU: [texts, width * modes] in float32. `left_out` [texts] tokens at the head of each are not pooled."""
        threads = torch.get_num_threads()
        parts = _parts(batch, threads)
        if len(parts) == 1:  # all threads work on each of its products
            return self._part(batch, left_out, changes)

        def part(texts: list[int]) -> Tensor:
            return self._part([batch[index] for index in texts], left_out[texts], changes and changes.of(texts))

        return _in_order(torch.cat(crew(threads).map(part, parts)), np.concatenate(parts))

    def token_vectors(self, batch: Sequence[Integers], changes: Changes | None = None) -> list[Tensor]:
        """On a CPU: for each text its token vectors [tokens, width] in float32."""
        laid = segments.lay(batch, linear.rounded, changes.numbers if changes else None)
        lengths = [len(batch[index]) for index in laid.order]
        rows = torch.split(self._tokens(laid, changes)[: sum(lengths)].float(), lengths)
        placed = dict(zip(laid.order.tolist(), rows, strict=True))
        return [placed[index] for index in range(len(batch))]

    def _part(self, batch: Sequence[Integers], left_out: Integers, changes: Changes | None) -> Tensor:
        laid = segments.lay(batch, linear.rounded, changes.numbers if changes else None)
        modes = changes.modes if changes else self._pooling.modes
        return _in_order(self._pool(self._tokens(laid, changes).float(), laid, left_out[laid.order], modes), laid.order)

    def _tokens(self, laid: Segments, changes: Changes | None) -> Tensor:
        """Token vectors [rows, width], in the network's type."""
        plan = self.bert.plan
        positions = laid.places() if plan.skipped is None else laid.counted(plan.skipped) + plan.skipped
        attend = Grouped(laid.groups, plan.heads, self.bert.relative_bias())
        blocks = changes.blocks(laid, plan.layers) if changes else None
        return self.bert.forward(torch.from_numpy(laid.ids), torch.from_numpy(positions), attend, blocks)

    def _pool(self, tokens: Tensor, laid: Segments, left_out: Integers, modes: Sequence[str]) -> Tensor:
        """In the order of the laid texts."""
        found = []
        begin = 0
        for group in laid.groups:
            block = tokens[group.begin : group.end].view(group.count, group.length, -1)
            heads = left_out[begin : begin + group.count, None]
            kept = torch.from_numpy((np.arange(group.length) >= heads).astype(np.float32))
            found.append(pool(block, kept, modes))
            begin += group.count
        return found[0] if len(found) == 1 else torch.cat(found)


def read(generation: Generation, pooling: Pooling, dtype: torch.dtype, *, reorder: bool) -> Native | None:
    """The network in host memory with its numbers in `dtype`, reordered if asked and possible, or None. Raises OSError,
    and ValueError for a file that is not whole."""
    plan = blueprint_of(generation)
    if plan is None:
        return None
    paths = [os.path.join(generation.path, name) for name in generation.manifest.weights]
    mapped = generation.place is None
    # Two mappings of the same files: one goes when the rest is reordered, and the word vectors alone stay mapped.
    reorder = reorder and linear.can_reorder(dtype)
    late = reorder and dtype == torch.float32  # which is fast enough as it lies in the file; half precision is not
    held = Held(
        tensors.read_all(paths, mapped=mapped), plan.names.prefix, dtype, reorder=reorder and not late, join=not late
    )
    words = Held(tensors.read_all(paths, mapped=True), plan.names.prefix, dtype) if mapped else held
    try:
        bert = _bert(plan, held, words)
    except Unusual:
        return None
    tensors.page_in(bert)
    return Native(bert, pooling, late=late)


def blueprint_of(generation: Generation) -> Blueprint | None:
    """What its config.json says of a network that we run ourselves; None for all others. Raises OSError."""
    manifest = generation.manifest
    if manifest.quantization is not None or not all(name.endswith(".safetensors") for name in manifest.weights):
        return None
    path = os.path.join(generation.path, manifest.transformer_path, "config.json")
    try:
        with open(path, "rb") as stream:
            return read_blueprint(msgspec.json.decode(stream.read()))
    except msgspec.DecodeError:
        return None


class Unusual(Exception):
    """A tensor is not there under its usual name, or is not of the shape and type that the config promises."""


class Held:
    """The tensors of the files, by the names that the bare network has for them."""

    def __init__(
        self,
        found: dict[str, Tensor],
        prefix: str,
        dtype: torch.dtype,
        *,
        reorder: bool = False,
        join: bool = True,
    ) -> None:
        headed = any(name.startswith(prefix) for name in found)
        found = {name: tensor for name, tensor in found.items() if name.startswith(prefix) or not headed}
        self._found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        self._dtype = dtype
        self._reorder = reorder
        self._join = join

    def take(self, name: str, *shape: int) -> Tensor:
        """Raises Unusual."""
        tensor = self._found.pop(name, None)
        if tensor is None or tensor.shape != shape or tensor.dtype not in STORED:
            raise Unusual(name)
        return tensor.to(self._dtype)

    def norm(self, name: str, plan: Blueprint) -> Norm:
        weight, bias = (self.take(f"{name}.{part}", plan.width).clone() for part in ("weight", "bias"))
        return Norm(weight, bias, plan.epsilon)

    def linear(self, name: str, outs: int, ins: int, activation: Activation = "none") -> Linear:
        return self._ordered(self._layer(name, outs, ins, activation))

    def side_by_side(self, names: Sequence[str], outs: int, ins: int) -> Linear | Joined:
        """Layers of the same input."""
        parts = [self._layer(name, outs, ins) for name in names]
        return self._ordered(joined(parts)) if self._join else Joined(parts)

    def _layer(self, name: str, outs: int, ins: int, activation: Activation = "none") -> Linear:
        return Linear(self.take(f"{name}.weight", outs, ins), self.take(f"{name}.bias", outs).clone(), activation)

    def _ordered(self, layer: Linear) -> Linear:
        if self._reorder:  # at once, so that not all of the plain weights are held at the same time
            layer.reorder()
        return layer


def _bert(plan: Blueprint, held: Held, mapped: Held) -> Bert:
    names = plan.names
    words = mapped.take("embeddings.word_embeddings.weight", plan.vocab, plan.width)
    places = held.take("embeddings.position_embeddings.weight", plan.positions, plan.width).clone()
    if names.types is not None:  # every token of a text that stands alone is of type 0
        places += held.take(f"{names.types}.weight", plan.types, plan.width)[0]
    norm = held.norm("embeddings.LayerNorm", plan)
    layers = [_layer(plan, held, f"{names.layer}.{number}.") for number in range(plan.layers)]
    bias = None if names.bias is None else held.take(f"{names.bias}.weight", BUCKETS, plan.heads).clone()
    return Bert(plan, words=words, places=places, norm=norm, layers=layers, bias=bias)


def _layer(plan: Blueprint, held: Held, at: str) -> Layer:
    names, width, inner = plan.names, plan.width, plan.inner
    return Layer(
        qkv=held.side_by_side([at + names.query, at + names.key, at + names.value], width, width),
        out=held.linear(at + names.out, width, width),
        out_norm=held.norm(at + names.out_norm, plan),
        inner=held.linear(at + names.inner, inner, width, plan.activation),
        outer=held.linear(at + names.outer, width, inner),
        outer_norm=held.norm(at + names.outer_norm, plan),
    )


def _parts(batch: Sequence[Integers], threads: int) -> list[list[int]]:
    """For each thread a part of the call; two where there is enough for it, so that a thread whose processor is wanted
    by a neighbour leaves the rest to the others."""
    parts = segments.parts(batch, 2 * threads, FINE_PART, SLACK)
    return parts if len(parts) > threads else segments.parts(batch, threads, LEAST_PART, SLACK)


def _in_order(found: Tensor, order: Integers) -> Tensor:
    """Row `i` of `found` belongs to text `order[i]`."""
    if len(order) == 1 or (order[1:] > order[:-1]).all():
        return found
    placed = torch.empty_like(found)
    placed[torch.from_numpy(order).to(found.device)] = found
    return placed
