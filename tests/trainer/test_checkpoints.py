"""A checkpoint is used only when it is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from trainer.checkpoints import fault, newest_whole

FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors")


def make(folder: Path, step: int) -> Path:
    """What the library writes, but for its size."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"w": np.arange(64, dtype=np.float32)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.arange(64)}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return checkpoint


def test_the_newest_is_taken_by_its_number(tmp_path: Path) -> None:
    for step in (5, 20, 100):
        make(tmp_path, step)
    assert newest_whole(tmp_path) == (tmp_path / "checkpoint-100", [])


def test_where_there_is_none_none_is_taken(tmp_path: Path) -> None:
    assert newest_whole(tmp_path / "nowhere") == (None, [])


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_without_one_of_its_files_is_moved_aside_and_the_one_before_taken(
    tmp_path: Path, name: str
) -> None:
    make(tmp_path, 5)
    (make(tmp_path, 10) / name).unlink()
    found, told = newest_whole(tmp_path)
    assert found == tmp_path / "checkpoint-5"
    assert [line.partition(":")[0] for line in told] == ["checkpoint-10"]
    assert (tmp_path / "broken-checkpoint-10").is_dir()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_file_is_found_wherever_it_was_cut(tmp_path: Path, name: str, share: float) -> None:
    path = make(tmp_path, 10) / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert fault(path.parent)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_flipped_bit_in_a_state_is_found(tmp_path: Path, name: str) -> None:
    path = make(tmp_path, 10) / name
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(64).numpy().tobytes()) + 100
    content[place] ^= 1
    path.write_bytes(content)
    assert name in fault(path.parent)


def test_a_state_of_another_step_is_no_checkpoint(tmp_path: Path) -> None:
    shutil.copytree(make(tmp_path, 5), tmp_path / "checkpoint-10")
    assert "step 5" in fault(tmp_path / "checkpoint-10")


def test_each_of_several_processes_needs_its_own_generators(tmp_path: Path) -> None:
    checkpoint = make(tmp_path, 5)
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    assert fault(checkpoint, 2) == "rng_state_1.pth is missing"
    shutil.copy(checkpoint / "rng_state_0.pth", checkpoint / "rng_state_1.pth")
    assert fault(checkpoint, 2) == ""


def test_what_was_moved_aside_before_stays(tmp_path: Path) -> None:
    for _ in range(2):
        (make(tmp_path, 5) / "optimizer.pt").unlink()
        assert newest_whole(tmp_path)[0] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken-checkpoint-5", "broken-checkpoint-5-2"]
