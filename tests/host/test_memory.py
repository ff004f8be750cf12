"""Bytes are measured, and a control group's limit is the machine's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from gateway.host import encoder, memory
from tests import making

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def groups(root: Path, limits: dict[str, str], own: str) -> int:
    """What may be used under these files of limits, by a process in the groups `own`."""
    for name, text in limits.items():
        (root / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cgroup" / name).write_text(text)
    (root / "own").write_text(own)
    return memory.allowed(root / "cgroup", root / "own")


@pytest.mark.parametrize(
    ("limits", "own"),
    [
        ({"memory.max": "1048576\n"}, "0::/\n"),
        ({"memory/memory.limit_in_bytes": "1048576\n"}, "4:memory:/\n"),
        ({"pods/a/memory.max": "max\n", "pods/memory.max": "1048576\n"}, "0::/pods/a\n"),
        ({"memory/docker/7/memory.limit_in_bytes": "1048576\n"}, "4:memory:/docker/7\n2:cpu:/docker/7\n"),
        ({"memory.max": "1048576\n"}, "0::/../outside\n"),
    ],
    ids=["v2 container", "v1 container", "v2 parent", "v1 nested", "v2 namespace"],
)
def test_a_limit_of_our_control_group_or_of_one_above_it_counts(
    limits: dict[str, str], own: str, tmp_path: Path
) -> None:
    assert groups(tmp_path, limits, own) == 1048576


def test_without_a_limit_the_machine_is_the_limit(tmp_path: Path) -> None:
    unlimited = {"memory.max": "max\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}
    assert groups(tmp_path, unlimited, "0::/\n") == MACHINE
    assert memory.allowed(tmp_path / "none", tmp_path / "none") == MACHINE


def test_the_budget_is_what_the_operator_says_or_half_of_what_the_cpu_may_use() -> None:
    assert memory.budget("cpu", 12345) == 12345
    assert 0 < memory.budget("cpu", 0) <= MACHINE // 2


def test_tensors_that_share_storage_are_counted_once() -> None:
    first, second = torch.nn.Linear(8, 4, bias=False), torch.nn.Linear(8, 4, bias=False)
    assert memory.tensor_bytes(torch.nn.Sequential(first, second)) == 2 * 8 * 4 * 4
    second.weight = first.weight
    assert memory.tensor_bytes(torch.nn.Sequential(first, second)) == 8 * 4 * 4


@pytest.mark.parametrize(
    "recipe",
    [{}, {"dense": 16, "layer_norm": True}, {"dtype": "float16"}, {"family": "t5"}, {"shards": 3}, {"weights": "bin"}],
    ids=str,
)
def test_a_load_takes_no_more_bytes_than_were_predicted(recipe: dict[str, Any], tmp_path: Path) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", **recipe))
    taken = encoder.load(generation, "cpu").bytes
    assert 0.8 * memory.predict(generation.manifest) <= taken <= memory.predict(generation.manifest)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("recipe", [{}, {"family": "roberta"}, {"dense": 16, "layer_norm": True}], ids=str)
def test_half_precision_is_predicted_to_take_about_half_and_takes_no_more(
    dtype: encoder.Dtype, recipe: dict[str, Any], tmp_path: Path
) -> None:
    generation = making.generation(making.encoder(tmp_path / "model", **recipe))
    predicted = memory.predict(generation.manifest, dtype)
    assert predicted < 0.6 * memory.predict(generation.manifest)
    taken = encoder.load(generation, "cpu", dtype).bytes
    assert 0.8 * predicted <= taken <= predicted


def test_what_is_computed_in_less_than_half_is_predicted_to_take_all(tmp_path: Path) -> None:
    manifest = making.generation(making.encoder(tmp_path / "model")).manifest
    assert memory.predict(manifest, "int8") == memory.predict(manifest, "auto") == memory.predict(manifest)


def test_resident_memory_follows_what_is_held_and_released() -> None:
    memory.release("cpu")
    before = memory.resident()
    held = torch.ones(64 << 18)  # 64 MiB
    assert memory.resident() - before > 60 << 20
    del held
    memory.release("cpu")
    assert memory.resident() - before < 10 << 20


def test_a_cpu_counts_no_device_memory() -> None:
    assert memory.allocated("cpu") == 0
