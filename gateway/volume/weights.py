"""Are these weights whole? Headers and sizes are read, and never a number of a tensor.

A safetensors file is whole when its header's tensors lie without gap or overlap from the header's end to exactly
the file's end, each as long as its type and shape say. Source: safetensors' own `validate`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import msgspec

from gateway.volume.documents import LARGEST, Document, shown
from gateway.volume.files import Folder, safe_relative
from gateway.volume.pickles import read_pickle
from gateway.volume.reasons import unfit

MAX_HEADER: Final = 16 * 1024**2  # bytes; safetensors itself allows 100 MB, which costs 24 s to parse
MAX_TENSORS: Final = 200_000
MAX_AXES: Final = 16
BITS: Final = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
OLDER: Final = "pytorch_model.safetensors"
PICKLE: Final = "pytorch_model.bin"
PICKLE_INDEX: Final = "pytorch_model.bin.index.json"

_header: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """`files` hold tensors; `index` names them, if there are several. `dtype` is that of most numbers.

    `shapes` is None for pickles, whose tensors cannot be seen without unpickling.
    """

    files: tuple[str, ...]
    parameters: int
    stored_bytes: int
    dtype: str
    shapes: Mapping[str, Shape] | None
    index: str | None = None


def find_weights(folder: Folder, path: str = "", *, allow_pickle: bool = False) -> Weights:
    """The weights in the sub-folder `path` of a model, of the best form that is there. Raises Unfit."""
    prefix = path + "/" if path else ""
    for name in (SINGLE, INDEX, OLDER, PICKLE, PICKLE_INDEX):
        if not folder.has(prefix + name):
            continue
        if name in (PICKLE, PICKLE_INDEX) and not allow_pickle:
            raise unfit("pickle_weights", f"{prefix}{name} is a pickle, and there are no safetensors", prefix + name)
        if name in (INDEX, PICKLE_INDEX):
            return _sharded(folder, prefix, name)
        return _single(folder, prefix + name)
    raise unfit("weights_missing", f"{prefix}{SINGLE} is missing", prefix + SINGLE)


def _single(folder: Folder, name: str) -> Weights:
    if name.endswith(".bin"):
        pickle = read_pickle(folder, name)
        return Weights((name,), pickle.parameters, pickle.stored_bytes, pickle.dtype, None)
    return read_safetensors(folder, name)


def _sharded(folder: Folder, prefix: str, name: str) -> Weights:
    index = prefix + name
    owners = _owners(folder, index, ".bin" if name == PICKLE_INDEX else ".safetensors")
    names = sorted(set(owners.values()))
    missing = [shown(shard) for shard in names if not folder.has(prefix + shard)]
    if missing:
        listed = ", ".join(missing[:8]) + (" and more" if len(missing) > 8 else "")
        raise unfit("shards_missing", f"{len(missing)} of {len(names)} shards are missing: {listed}", index)
    shards = {shard: _single(folder, prefix + shard) for shard in names}
    for tensor, owner in owners.items():
        shapes = shards[owner].shapes
        if shapes is not None and tensor not in shapes:
            raise unfit("weights_mismatch", f"{owner} lacks the tensor {shown(tensor)} of {index}", prefix + owner)
    return _together(list(shards.values()), index)


def _owners(folder: Folder, index: str, suffix: str) -> dict[str, str]:
    """Tensor -> the file that holds it, as the index says."""
    table = Document.read(folder, index, "weights_invalid").inner("weight_map").fields
    if not table or len(table) > MAX_TENSORS:
        raise unfit("weights_invalid", f"{index} has a weight_map of {len(table)} tensors", index)
    for file in table.values():
        if not isinstance(file, str) or safe_relative(file) != file or "/" in file or not file.endswith(suffix):
            raise unfit("weights_invalid", f"{index} names the shard {shown(file)}", index)
    return table


def _together(shards: list[Weights], index: str) -> Weights:
    numbers: Counter[str] = Counter()
    shapes: dict[str, Shape] | None = {}
    for shard in shards:
        numbers[shard.dtype] += shard.parameters
        shapes = None if shapes is None or shard.shapes is None else shapes | dict(shard.shapes)
    return Weights(
        tuple(file for shard in shards for file in shard.files),
        sum(shard.parameters for shard in shards),
        sum(shard.stored_bytes for shard in shards),
        numbers.most_common(1)[0][0],
        shapes,
        index,
    )


def read_safetensors(folder: Folder, name: str) -> Weights:
    """One file, checked to its last byte's place. Raises Unfit (weights_truncated, weights_invalid, reading)."""
    with folder.open(name) as descriptor:
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
        if size < 8:
            raise unfit("weights_truncated", f"{name} has {size} bytes, and not even its header's length", name)
        if length > MAX_HEADER:
            raise unfit("weights_invalid", f"{name} claims a header of {length:,} bytes; {MAX_HEADER:,} are read", name)
        if size < 8 + length:
            raise unfit("weights_truncated", f"{name} has {_sizes(size, 8 + length)} of its header alone", name)
        header = os.pread(descriptor, length, 8)
    return _check(_parse(header, name), size - 8 - length, size, name)


def _parse(header: bytes, name: str) -> dict[str, Any]:
    if header.count(b'"data_offsets"') > MAX_TENSORS:
        raise unfit("weights_invalid", f"{name} has more than {MAX_TENSORS:,} tensors", name)
    try:
        entries = _header.decode(header.decode("utf-8"))
        entries.pop("__metadata__", None)
        if not entries:
            raise unfit("weights_invalid", f"{name} has no tensors", name)
        if len(entries) > MAX_TENSORS:
            raise unfit("weights_invalid", f"{name} has {len(entries):,} tensors; {MAX_TENSORS:,} are read", name)
        # one at a time: nobody waits for the interpreter's lock until all are built
        return {tensor: msgspec.json.decode(entry) for tensor, entry in entries.items()}
    except msgspec.ValidationError as error:
        raise unfit("weights_invalid", f"the header of {name} is no table of tensors", name) from error
    except (ValueError, RecursionError) as error:
        raise unfit("weights_invalid", f"the header of {name} does not parse as JSON", name) from error


def _check(tensors: dict[str, Any], data_bytes: int, size: int, name: str) -> Weights:
    entries = sorted((_entry(tensor, entry, name) for tensor, entry in tensors.items()), key=lambda e: (e[0], e[1]))
    reached = 0
    numbers: Counter[str] = Counter()
    for begin, end, dtype, shape in entries:
        if begin != reached:
            raise unfit("weights_invalid", f"the tensors of {name} overlap or leave a gap at byte {reached}", name)
        reached = end
        numbers[dtype] += math.prod(shape)
    if data_bytes < reached:
        raise unfit("weights_truncated", f"{name} has {_sizes(size, size - data_bytes + reached)}", name)
    if data_bytes > reached:
        raise unfit("weights_invalid", f"{name} has {data_bytes - reached:,} bytes after its last tensor", name)
    shapes = {tensor: tuple(entry["shape"]) for tensor, entry in tensors.items()}
    return Weights((name,), numbers.total(), reached, numbers.most_common(1)[0][0], shapes)


def _entry(tensor: str, entry: Any, name: str) -> tuple[int, int, str, Shape]:
    """Begin, end, type and shape of one tensor, which agree with one another."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if (
        not (isinstance(dtype, str) and dtype in BITS)
        or not (_naturals(shape) and len(shape) <= MAX_AXES)
        or not (_naturals(offsets) and len(offsets) == 2)
        or math.prod(shape) * BITS[dtype] != (offsets[1] - offsets[0]) * 8
    ):
        message = f"{name}: type, shape and place of the tensor {shown(tensor)} do not agree"
        raise unfit("weights_invalid", message, name)
    return offsets[0], offsets[1], dtype, tuple(shape)


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= LARGEST for item in value)


def _sizes(found: int, expected: int) -> str:
    """'34.4 of 90.9 MB'; in bytes where the rounded numbers would be the same."""
    unit, symbol = (1e9, "GB") if expected >= 1e9 else (1e6, "MB") if expected >= 1e6 else (1e3, "kB")
    ours, theirs = f"{found / unit:.1f}", f"{expected / unit:.1f}"
    if ours == theirs or expected < 1e3:
        return f"{found:,} of {expected:,} bytes"
    return f"{ours} of {theirs} {symbol}"
