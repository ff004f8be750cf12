"""Weights are whole to the last byte or they are not weights; nothing of them is run or read."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from gateway.model import Reason
from gateway.volume.files import Folder
from gateway.volume.reasons import Unfit
from gateway.volume.weights import MAX_HEADER, MAX_TENSORS, Weights, find_weights


def find(path: Path, *, allow_pickle: bool = False) -> Weights:
    return find_weights(Folder(str(path), str(path)), allow_pickle=allow_pickle)


def refused(path: Path, *, allow_pickle: bool = False) -> Reason:
    with pytest.raises(Unfit) as caught:
        find(path, allow_pickle=allow_pickle)
    return caught.value.reason


def some_tensors() -> dict[str, np.ndarray[Any, Any]]:
    return {"a": np.ones((3, 4), np.float32), "b": np.ones(5, np.float16), "none": np.ones((0, 7), np.float32)}


def save(path: Path, name: str = "model.safetensors", tensors: Mapping[str, Any] | None = None) -> Path:
    save_file(dict(tensors or some_tensors()), path / name)
    return path / name


def write_raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    (path / "model.safetensors").write_bytes(size + text + data)


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_whole_file_tells_its_numbers_bytes_types_and_shapes(tmp_path: Path) -> None:
    save(tmp_path)
    found = find(tmp_path)
    assert (found.files, found.index) == (("model.safetensors",), None)
    assert (found.parameters, found.stored_bytes, found.dtype) == (17, 58, "F32")
    assert found.shapes == {"a": (3, 4), "b": (5,), "none": (0, 7)}


def test_every_prefix_of_a_weights_file_is_truncated_and_one_byte_more_is_invalid(tmp_path: Path) -> None:
    file = save(tmp_path)
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        found = refused(tmp_path)
        assert (found.code, found.kind, length) == ("weights_truncated", "incomplete", length)
    file.write_bytes(content + b"\0")
    assert refused(tmp_path).code == "weights_invalid"
    file.write_bytes(content)
    assert find(tmp_path).parameters == 17


def test_a_truncated_weights_file_is_named_with_its_bytes(tmp_path: Path) -> None:
    write_raw(tmp_path, {"a": tensor(0, 90_900_000, [22_725_000])})
    with open(tmp_path / "model.safetensors", "r+b") as stream:
        stream.truncate(34_400_000)
    found = refused(tmp_path)
    assert "model.safetensors has 34.4 of 90.9 MB" in found.message
    assert found.file == "model.safetensors"


def test_one_missing_byte_of_many_is_told_in_bytes(tmp_path: Path) -> None:
    write_raw(tmp_path, {"a": tensor(0, 4_000_000, [1_000_000])})
    whole = (tmp_path / "model.safetensors").stat().st_size + 4_000_000
    with open(tmp_path / "model.safetensors", "r+b") as stream:
        stream.truncate(whole - 1)
    assert f"{whole - 1:,} of {whole:,} bytes" in refused(tmp_path).message


@pytest.mark.parametrize(
    "header",
    [
        {"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])},
        {"a": tensor(0, 8, [2]), "b": tensor(12, 20, [2])},
        {"a": tensor(4, 12, [2])},
        {"a": tensor(0, 8, [3])},
        {"a": tensor(0, 8, [-2])},
        {"a": tensor(0, 8, [2], "F33")},
        {"a": tensor(8, 0, [2])},
        {"a": {"dtype": ["F32"], "shape": {}, "data_offsets": "0,8"}},
        {"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [10**30] * 16, "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1] * 1000 + [2], "data_offsets": [0, 8]}},
        {"a": [0, 8]},
        {"a": None},
        {},
        {"__metadata__": {"format": "pt"}},
        [],
        "text",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"__metadata__": {"format": "\xff"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    ],
)
def test_a_header_that_contradicts_itself_is_invalid(tmp_path: Path, header: Any) -> None:
    write_raw(tmp_path, header, b"\0" * 8)
    assert refused(tmp_path).code == "weights_invalid"


def test_a_header_over_its_cap_is_refused_unread(tmp_path: Path) -> None:
    for length in (MAX_HEADER + 1, 2**63, 2**64 - 1):
        write_raw(tmp_path, b"{}", length=length)
        assert refused(tmp_path).code == "weights_invalid"


def test_a_header_of_very_many_tensors_is_refused_unparsed(tmp_path: Path) -> None:
    entries = b",".join(b'"%d":{"data_offsets":[0,0]}' % number for number in range(MAX_TENSORS + 1))
    write_raw(tmp_path, b"{" + entries + b"}")
    found = refused(tmp_path)
    assert found.code == "weights_invalid"
    assert "200,000" in found.message


def test_a_header_of_very_many_entries_is_refused_before_they_are_built(tmp_path: Path) -> None:
    write_raw(tmp_path, b"{" + b",".join(b'"%d":0' % number for number in range(MAX_TENSORS + 1)) + b"}")
    found = refused(tmp_path)
    assert (found.code, "200,001 tensors" in found.message) == ("weights_invalid", True)


def write_shards(path: Path, count: int = 3) -> list[str]:
    names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
    for number, name in enumerate(names):
        save(path, name, {f"layer.{number}": np.ones((2, 2), np.float32)})
    table = {f"layer.{number}": name for number, name in enumerate(names)}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return names


def test_sharded_weights_are_whole_when_every_shard_is(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    found = find(tmp_path)
    assert (found.files, found.index) == (tuple(names), "model.safetensors.index.json")
    assert (found.parameters, found.stored_bytes) == (12, 48)
    assert found.shapes is not None
    assert set(found.shapes) == {"layer.0", "layer.1", "layer.2"}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    (tmp_path / names[1]).unlink()
    found = refused(tmp_path)
    assert (found.code, found.kind) == ("shards_missing", "incomplete")
    assert names[1] in found.message
    assert "1 of 3" in found.message


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    shard = tmp_path / names[2]
    shard.write_bytes(shard.read_bytes()[:-1])
    found = refused(tmp_path)
    assert (found.code, found.file) == ("weights_truncated", names[2])


def test_a_shard_of_another_model_is_a_mismatch(tmp_path: Path) -> None:
    names = write_shards(tmp_path)
    save(tmp_path, names[0], {"other": np.ones(3, np.float32)})
    assert refused(tmp_path).code == "weights_mismatch"


@pytest.mark.parametrize(
    "table",
    [
        None,
        [],
        {},
        {"a": None},
        {"a": 5},
        {"a": "../x.safetensors"},
        {"a": "/etc/x.safetensors"},
        {"a": "b/x.safetensors"},
        {"a": "x.bin"},
        {"a": ["x.safetensors"]},
    ],
)
def test_an_index_that_names_no_plain_shards_is_invalid(tmp_path: Path, table: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert refused(tmp_path).code == "weights_invalid"


def test_safetensors_win_over_everything_beside_them(tmp_path: Path) -> None:
    save(tmp_path, "pytorch_model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    assert find(tmp_path).files == ("pytorch_model.safetensors",)
    write_shards(tmp_path)
    assert find(tmp_path).index == "model.safetensors.index.json"
    save(tmp_path)
    assert find(tmp_path).files == ("model.safetensors",)


def test_no_weights_at_all_is_incomplete(tmp_path: Path) -> None:
    found = refused(tmp_path)
    assert (found.code, found.kind, found.file) == ("weights_missing", "incomplete", "model.safetensors")


def test_a_pickle_is_refused_unless_the_operator_allows_it(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3, 4, dtype=torch.float16)}, tmp_path / "pytorch_model.bin")
    found = refused(tmp_path)
    assert (found.code, found.kind) == ("pickle_weights", "refused")
    assert "DROPGATE_ALLOW_PICKLE" in found.remedy
    allowed = find(tmp_path, allow_pickle=True)
    assert (allowed.parameters, allowed.stored_bytes, allowed.dtype, allowed.shapes) == (12, 24, "F16", None)


def test_every_prefix_of_a_pickle_is_truncated(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(3, 4)}, file)
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        assert (refused(tmp_path, allow_pickle=True).code, length) == ("weights_truncated", length)
    file.write_bytes(content)
    assert find(tmp_path, allow_pickle=True).parameters == 12


def test_a_bare_pickle_of_old_torch_is_refused_though_pickles_are_allowed(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = refused(tmp_path, allow_pickle=True)
    assert (found.code, found.kind) == ("pickle_legacy", "refused")


def test_a_zip_bomb_is_not_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("model/data/0", b"\0" * 50_000_000)
    found = refused(tmp_path, allow_pickle=True)
    assert found.code == "weights_invalid"
    assert "compressed" in found.message


def test_members_larger_than_their_file_are_not_weights(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(3)}, file)
    content = bytearray(file.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0"))
    content[entry + 20 : entry + 28] = struct.pack("<LL", 10**9, 10**9)  # compressed and uncompressed size
    file.write_bytes(content)
    assert refused(tmp_path, allow_pickle=True).code == "weights_invalid"


def test_a_zip_without_a_pickle_is_not_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("hello.txt", b"hello")
    assert refused(tmp_path, allow_pickle=True).code == "weights_invalid"


def test_flipped_bytes_in_a_pickle_never_end_in_a_stack_trace(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(3)}, file)
    content = file.read_bytes()
    generator = np.random.default_rng(7)
    outcomes = set()
    for _ in range(300):
        changed = bytearray(content)
        for position in generator.integers(0, len(content), 4):
            changed[position] = generator.integers(0, 256)
        file.write_bytes(changed)
        try:
            outcomes.add(find(tmp_path, allow_pickle=True).files[0])
        except Unfit as error:
            outcomes.add(error.reason.code)
    assert "weights_invalid" in outcomes
    assert outcomes <= {"pytorch_model.bin", "weights_invalid", "weights_truncated", "pickle_legacy"}
