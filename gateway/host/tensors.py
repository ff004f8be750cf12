"""The tensors of a safetensors file, mapped and not read: pages come from the disk when they are first used.
A file that others may write to is read instead, for what is mapped would change with it.

In place of the library's own reader: safetensors 0.8 keeps two Python integers for ever with each tensor that it
hands out, 25 kB with each load of a model of 400 tensors. The format: 8 bytes of header length, the header as JSON,
the numbers. Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn

LENGTH: Final = struct.Struct("<Q")
METADATA: Final = "__metadata__"
PAGE_BYTES: Final = 4096
DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


class Entry(msgspec.Struct, frozen=True):
    """One tensor of a header; offsets count from the header's end, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read(path: str, *, mapped: bool = True) -> dict[str, Tensor]:
    """Name -> tensor. A write to one stays private. Raises OSError, or ValueError for a file that is not whole."""
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        (length,) = LENGTH.unpack(_exactly(stream.read(LENGTH.size), LENGTH.size))
        if length > size:
            raise ValueError("the file ends in its header")
        header = msgspec.json.decode(_exactly(stream.read(length), length), type=dict[str, Any])
        header.pop(METADATA, None)
        start = LENGTH.size + length
        spans = {name: _span(msgspec.convert(entry, Entry), start, size) for name, entry in header.items()}
        if not mapped:
            return {name: span.tensor(span.copied(stream)) for name, span in spans.items()}
    # Any: the stubs give it the type of storages of long ago
    held: Any = torch.UntypedStorage.from_file(path, False, size)
    return {name: span.tensor(held[span.begin : span.end]) for name, span in spans.items()}


def read_all(paths: Iterable[str], *, mapped: bool = True) -> dict[str, Tensor]:
    """The tensors of all shards of one model."""
    return {name: tensor for path in paths for name, tensor in read(path, mapped=mapped).items()}


def page_in(module: nn.Module) -> None:
    """Reads one number of each page of what is only mapped: the device lane must not wait for a disk."""
    for tensor in module.parameters():
        tensor.flatten()[:: PAGE_BYTES // tensor.element_size()].sum()


class Span(msgspec.Struct, frozen=True):
    """Where in the file a tensor lies, in bytes, and what it is."""

    begin: int
    end: int
    dtype: Any
    shape: tuple[int, ...]

    def tensor(self, storage: Any) -> Tensor:
        """A view of `storage`, which lives as long as the tensor. Any: as in `read`."""
        empty: Any = torch.empty(0, dtype=self.dtype)
        view: Tensor = empty.set_(storage, 0, self.shape)
        return view

    def copied(self, stream: io.BufferedReader) -> torch.UntypedStorage:
        """In memory of its own, so that each tensor can be let go by itself."""
        copy = torch.empty(self.end - self.begin, dtype=torch.uint8)
        stream.seek(self.begin)
        if stream.readinto(copy.numpy().data) != len(copy):
            raise ValueError("the file became shorter while it was read")
        return copy.untyped_storage()


def _span(entry: Entry, start: int, size: int) -> Span:
    begin, end = (start + offset for offset in entry.data_offsets)
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise ValueError(f"tensors of type {entry.dtype} cannot be loaded")
    if not start <= begin <= end <= size or end - begin != math.prod(entry.shape) * dtype.itemsize:
        raise ValueError("the file is shorter than its header says")
    return Span(begin, end, dtype, entry.shape)


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError("the file ends in its header")
    return data
