"""Recorded or not, a call gives what the function gives; and captures keep within their bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gateway.host.graphs import (
    LEAST_USES,
    LENGTHS,
    MOST_TOKENS,
    OVERDUE_USES,
    ROWS,
    Capture,
    CudaCamera,
    Function,
    Graphs,
    Uncapturable,
    bucket,
)
from gateway.host.planes import Shape


class Tape:
    """A capture with memory of its own: what is replayed reads it and nothing else."""

    def __init__(self, function: Function, numbers: Tensor) -> None:
        self._function = function
        self._numbers = numbers.clone()
        self.bytes = numbers.nbytes

    def replay(self, numbers: Tensor) -> Tensor:
        assert numbers.shape == self._numbers.shape
        self._numbers.copy_(numbers)
        return self._function(self._numbers)


class Taping:
    """A camera on the CPU, with CUDA's rules: whoever looks at the numbers while it captures cannot be captured."""

    def __init__(self) -> None:
        self.captured: list[tuple[int, ...]] = []
        self.running = False

    def capture(self, function: Function, numbers: Tensor, room: int) -> Capture | None:
        if numbers.nbytes > room:
            return None
        self.running = True
        try:
            function(numbers)
        except PermissionError as error:
            raise Uncapturable("it looked") from error
        finally:
            self.running = False
        self.captured.append(tuple(numbers.shape))
        return Tape(function, numbers)


def mean(numbers: Tensor) -> Tensor:
    """Each text's mean id, over its mask."""
    ids, mask = numbers
    return ((ids * mask).sum(1) / mask.sum(1))[:, None].float()


def call(graphs: Graphs, rows: list[list[int]]) -> Tensor:
    """A call as an encoder makes it: padded to the shape that it is told, the filler rows left out again."""
    exact = len(rows), max(map(len, rows))
    shape = graphs.shape(*exact)
    count, length = shape or exact
    numbers = torch.ones((2, count, length), dtype=torch.int64)
    for index, row in enumerate(rows):
        numbers[0, index, : len(row)] = torch.tensor(row)
        numbers[1, index] = (torch.arange(length) < len(row)).long()
    return graphs.run(numbers, shape)[: len(rows)]


def example(shape: Shape) -> Tensor:
    return torch.ones((2, *shape), dtype=torch.int64)


def made(
    function: Function = mean, limit: int = 1 << 30, told: Callable[[str], None] = lambda why: None
) -> tuple[Graphs, Taping]:
    camera = Taping()
    return Graphs(function, example, 512, camera, limit=limit, tell=told), camera


def use(graphs: Graphs, rows: int, length: int, times: int = LEAST_USES) -> None:
    for _ in range(times):
        graphs.shape(rows, length)


@given(st.integers(1, 200), st.integers(1, 1000))
def test_a_bucket_holds_what_it_is_for_and_no_smaller_one_does(rows: int, length: int) -> None:
    found = bucket(rows, length, 1000)
    holding = [(r, c) for r in ROWS for c in LENGTHS if r >= rows and c >= length]
    if found is None:
        assert not holding or holding[0][0] * holding[0][1] > MOST_TOKENS
    else:
        assert found == holding[0]
        assert found[0] * found[1] <= MOST_TOKENS


@given(st.integers(1, 64), st.integers(1, 100))
def test_a_bucket_is_no_longer_than_any_text_can_be(rows: int, length: int) -> None:
    found = bucket(rows, length, 100)
    assert found is None or length <= found[1] <= 100


def test_a_call_of_a_captured_shape_gives_what_the_function_gives() -> None:
    graphs, camera = made()
    rows = [[3, 5, 7], [2], [9, 9]]
    wanted = call(graphs, rows)
    use(graphs, 3, 3)
    assert graphs.spare()
    assert camera.captured == [(2, 4, 16)]
    assert graphs.shape(3, 3) == (4, 16)
    assert torch.equal(call(graphs, rows), wanted)
    assert torch.equal(call(graphs, [[1, 2, 3]] * 4), torch.full((4, 1), 2.0))


def test_a_shape_that_is_not_captured_is_not_padded() -> None:
    graphs, _ = made()
    assert graphs.shape(3, 3) is None
    assert graphs.shape(1000, 400) is None


def test_a_shape_is_captured_when_it_has_been_used_often_and_the_commonest_first() -> None:
    graphs, camera = made()
    use(graphs, 1, 16, LEAST_USES - 1)
    assert not graphs.wants_pause(busy=False)
    assert not graphs.spare()
    use(graphs, 1, 16)
    use(graphs, 8, 30, 50)
    assert graphs.wants_pause(busy=False)
    while graphs.spare():
        pass
    assert not graphs.wants_pause(busy=False)
    assert camera.captured == [(2, 8, 32), (2, 1, 16)]


def test_a_pause_that_never_comes_is_taken_when_a_shape_has_been_used_for_long() -> None:
    graphs, _ = made()
    use(graphs, 1, 16, OVERDUE_USES - 1)
    assert graphs.wants_pause(busy=False)
    assert not graphs.wants_pause(busy=True)
    use(graphs, 1, 16, 1)
    assert graphs.wants_pause(busy=True)
    assert graphs.spare()
    assert not graphs.wants_pause(busy=False)


def test_large_calls_are_never_captured() -> None:
    graphs, _ = made()
    use(graphs, 64, 512, 100)
    assert not graphs.spare()


def test_captures_keep_within_their_bytes_and_smaller_shapes_still_get_theirs() -> None:
    graphs, camera = made(limit=2 * 8 * (16 * 16 + 16))
    use(graphs, 64, 16, 30)  # too large
    use(graphs, 16, 16, 20)
    use(graphs, 1, 16, 10)
    while graphs.spare():
        pass
    assert camera.captured == [(2, 16, 16), (2, 1, 16)]
    assert graphs.bytes == 2 * 8 * (16 * 16 + 16)
    assert graphs.shape(64, 16) is None


def test_a_function_that_cannot_be_captured_runs_as_it_always_did_and_says_so_once() -> None:
    camera = Taping()
    told: list[str] = []

    def looks(numbers: Tensor) -> Tensor:
        if camera.running:
            raise PermissionError
        return mean(numbers)

    graphs = Graphs(looks, example, 512, camera, limit=1 << 30, tell=told.append)
    for _ in range(3):
        use(graphs, 2, 3, 10)
        graphs.spare()
        assert torch.equal(call(graphs, [[1, 3], [4]]), torch.tensor([[2.0], [4.0]]))
    assert told == ["it looked"]
    assert graphs.bytes == 0


def test_what_is_closed_holds_nothing_and_may_be_used_again() -> None:
    graphs, _ = made()
    use(graphs, 2, 3)
    assert graphs.spare()
    graphs.close()
    assert graphs.bytes == 0
    assert graphs.shape(2, 3) is None
    assert call(graphs, [[1, 3]]).tolist() == [[2.0]]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_gpu(function: Function, limit: int = 1 << 30) -> tuple[Graphs, list[str]]:
    told: list[str] = []
    return Graphs(function, example, 512, CudaCamera("cuda"), limit=limit, tell=told.append), told


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_a_replay_gives_what_the_function_gives() -> None:
    weight = torch.randn(64, 64, device="cuda")

    def function(numbers: Tensor) -> Tensor:
        ids, mask = numbers
        hidden = torch.tanh(torch.nn.functional.one_hot(ids % 64, 64).float() @ weight) * mask[..., None]
        return hidden.sum(1)

    graphs, told = on_gpu(function)
    with torch.inference_mode():
        use(graphs, 4, 16)
        use(graphs, 32, 16)
        while graphs.spare():
            pass
        assert told == []
        assert graphs.bytes > 0
        for rows in (4, 32, 4):
            numbers = torch.randint(1, 60, (2, rows, 16), device="cuda")
            torch.testing.assert_close(graphs.run(numbers, (rows, 16)), function(numbers))


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_a_function_that_looks_at_its_numbers_falls_back_and_the_device_lives_on() -> None:
    def looks(numbers: Tensor) -> Tensor:
        return mean(numbers) * (2 if numbers[1].all().item() else 1)

    graphs, told = on_gpu(looks)
    stream = torch.cuda.current_stream()
    with torch.inference_mode():
        use(graphs, 4, 16)
        assert graphs.spare()
        assert len(told) == 1
        assert torch.cuda.current_stream() == stream
        assert call_on_gpu(graphs).tolist() == [[4.0]] * 4
        torch.ones(1 << 20, device="cuda").sum().item()


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_closing_the_captures_gives_their_memory_back() -> None:
    weight = torch.randn(1024, 1024, device="cuda")
    graphs, told = on_gpu(lambda numbers: numbers[0][..., None].float().expand(-1, -1, 1024).matmul(weight).sum(1))
    with torch.inference_mode():
        use(graphs, 64, 32)
        graphs.run(example((64, 32)).to("cuda"), None)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        assert graphs.spare()
        assert told == []
        assert torch.cuda.memory_reserved() > before
        graphs.close()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() <= before + (40 << 20)  # the workspace of the stream that captures stays


def call_on_gpu(graphs: Graphs) -> Tensor:
    numbers = torch.full((2, 4, 16), 2, device="cuda") - torch.tensor([[[0]], [[1]]], device="cuda")
    return graphs.run(numbers, graphs.shape(4, 16))
