"""Memory that a call under way still needs is not written, and every call gets its own vectors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gateway.host.staging import ALIGNMENT, CudaBus, Event, Staging, layout


class LateBus:
    """A bus that puts everything off until somebody waits, as a device may."""

    def __init__(self) -> None:
        self._work: list[Callable[[], object]] = []
        self.taken: list[int] = []

    def pinned(self, size: int, dtype: torch.dtype) -> Tensor:
        self.taken.append(size)
        return torch.zeros(size, dtype=dtype)

    def empty(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(size, dtype=dtype)

    def up(self, source: Tensor, target: Tensor) -> None:
        self._work.append(lambda: target.copy_(source))

    def compute(self, function: Callable[[], object]) -> None:
        self._work.append(function)

    def down(self, source: Tensor, target: Tensor) -> Event:
        self._work.append(lambda: target.copy_(source))
        return Moment(self, len(self._work))

    def run(self, end: int) -> None:
        for number, work in enumerate(self._work[:end]):
            work()
            self._work[number] = lambda: None


class Moment:
    def __init__(self, bus: LateBus, end: int) -> None:
        self._bus = bus
        self._end = end

    def synchronize(self) -> None:
        self._bus.run(self._end)


def begin(bus: LateBus, staging: Staging, numbers: npt.NDArray[np.int64]) -> Callable[[], npt.NDArray[np.float32]]:
    """A call that doubles its numbers, as a kernel would: later, from the device's memory."""
    (placed,) = staging.upload([numbers])
    vectors = torch.zeros(numbers.shape)
    bus.compute(lambda: vectors.copy_(2 * placed))
    return staging.download(vectors).wait


def test_two_calls_may_be_under_way_and_each_gets_its_own_vectors() -> None:
    bus = LateBus()
    staging = Staging(bus)
    first, second = (begin(bus, staging, np.array([[number]])) for number in (1, 2))
    assert second().tolist() == [[4]]
    assert first().tolist() == [[2]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 3))
def test_calls_that_begin_before_others_were_asked_for_lose_nothing(sizes: list[int], slots: int) -> None:
    bus = LateBus()
    staging = Staging(bus, slots)
    waits = [begin(bus, staging, np.full((size, 2), number)) for number, size in enumerate(sizes)]
    for number, (size, wait) in enumerate(zip(sizes, waits, strict=True)):
        assert wait().tolist() == [[2 * number] * 2] * size


def test_the_vectors_of_a_call_stay_as_they_were_when_their_memory_is_used_again() -> None:
    bus = LateBus()
    staging = Staging(bus, 1)
    kept = begin(bus, staging, np.array([[1]]))()
    begin(bus, staging, np.array([[5]]))()
    assert kept.tolist() == [[2]]


def test_memory_is_taken_for_the_largest_call_and_not_for_each() -> None:
    bus = LateBus()
    staging = Staging(bus, 1)
    for size in [10, 4000, 4000, 9000, 8000, 9000]:
        begin(bus, staging, np.zeros((size, 1), dtype=np.int64))()
    assert bus.taken == [4096, 4096, 16384, 16384]  # numbers up and vectors down


def test_arrays_of_different_shapes_go_up_together() -> None:
    bus = LateBus()
    ids, mask = np.arange(6).reshape(2, 3), np.array([7])
    placed = Staging(bus).upload([ids, mask])
    bus.run(1)
    assert [tensor.tolist() for tensor in placed] == [ids.tolist(), mask.tolist()]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_arrays_never_overlap_and_begin_where_wide_loads_can(sizes: list[int]) -> None:
    places, size = layout(sizes)
    ends = [place + length for place, length in zip(places, sizes, strict=True)]
    assert all(end <= place for end, place in zip(ends, [*places[1:], size], strict=True))
    assert all(place % ALIGNMENT == 0 for place in places)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_calls_that_overlap_get_their_own_vectors() -> None:
    staging = Staging(CudaBus("cuda"))
    calls = []
    for number in range(40):
        size = 1 + (number * 977) % 20_000
        (placed,) = staging.upload([np.full((size, 1), number)])
        calls.append((number, size, staging.download((2 * placed).float())))
    for number, size, pending in calls:
        assert pending.wait().tolist() == [[2 * number]] * size
