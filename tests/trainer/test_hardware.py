"""The device is found, and what this machine does not have is refused."""

from __future__ import annotations

import os

import pytest
import torch

from trainer.errors import InvalidInput
from trainer.hardware import find


@pytest.fixture(autouse=True)
def _the_threads_of_this_process_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert torch.get_num_threads() == before


def test_a_cpu_trains_in_float32_on_the_cores_that_it_may_use() -> None:
    found = find("cpu")
    assert (found.device, found.precision, found.threads) == ("cpu", "float32", len(os.sched_getaffinity(0)))


def test_the_threads_asked_for_win_over_the_environment_which_wins_over_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert find("cpu").threads == 3
    assert find("cpu", threads=5).threads == 5


def test_several_processes_share_the_cores_and_the_first_alone_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    found = find("cpu")
    assert (found.processes, found.process, found.first) == (2, 1, False)
    assert found.threads == max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "CPU"])
def test_an_unknown_device_is_an_error(device: str) -> None:
    with pytest.raises(InvalidInput, match="expected auto, cpu, cuda or cuda:N"):
        find(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_cuda_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="no such CUDA device"):
        find("cuda")


def test_float16_on_a_cpu_is_refused_and_bfloat16_is_not() -> None:
    assert find("cpu", "bfloat16").precision == "bfloat16"
    with pytest.raises(InvalidInput, match="float16"):
        find("cpu", "float16")
