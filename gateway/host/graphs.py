"""Small calls as CUDA graphs: captured once for a shape, and replayed with other numbers in one launch.

A forward of 16 tokens is a hundred kernels of some microseconds, and telling the device of each takes longer than
running it. Large calls gain nothing and are never captured. A capture is made while nobody waits, if there is such a
while, and a model that cannot be captured runs as it always did. All captures of one model share one pool of memory,
since only one runs at a time: dropping one would free nothing, so they go together.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from gateway.host import cuda
from gateway.host.planes import Shape

ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
LENGTHS: Final = (16, 32, 64, 128, 256, 512)
MOST_TOKENS: Final = 2048  # of a padded call: above, arithmetic takes longer than launching
LEAST_USES: Final = 3  # of a shape, before it is worth a capture
OVERDUE_USES: Final = 64  # of a shape, before it is worth one even while others wait: some twenty milliseconds, once
WARM_RUNS: Final = 2  # libraries choose their kernels and take their workspaces in the first

Pool = Any  # a handle of torch's, whose type is its own
Function = Callable[[Tensor], Tensor]  # the numbers of a call -> float32 [rows, dim]


class Capture(Protocol):
    """One captured call."""

    bytes: int  # that it added to what the device holds

    def replay(self, numbers: Tensor) -> Tensor:
        """What the function would give; good until the next replay of any capture of the same model."""


class Uncapturable(Exception):
    """The function does what a graph cannot: it looks at numbers on the device, or takes memory from elsewhere."""


class Camera(Protocol):
    """Makes captures. The one seam to CUDA."""

    def capture(self, function: Function, numbers: Tensor, room: int) -> Capture | None:
        """None if a run needs more than `room` bytes, or more than there are. Raises Uncapturable."""


class Graphs:
    """The captures of one model's `function`, within `limit` bytes and what torch's allocator rounds these up to.

    `example` makes the numbers of a call of some shape, whose texts have at most `longest` tokens: there are no
    positions beyond. Owned by the device's thread. `tell` hears once, in words, why there will be none.
    """

    def __init__(
        self,
        function: Function,
        example: Callable[[Shape], Tensor],
        longest: int,
        camera: Camera,
        *,
        limit: int,
        tell: Callable[[str], None],
    ) -> None:
        self._function = function
        self._example = example
        self._longest = longest
        self._camera = camera
        self._limit = limit
        self._tell = tell
        self._captures: dict[Shape, Capture] = {}
        self._uses: Counter[Shape] = Counter()
        self._refused: set[Shape] = set()
        self._failed = False
        self._due = 0  # uses of the shape that is to be captured next

    @property
    def bytes(self) -> int:
        """What the captures hold on the device."""
        return sum(capture.bytes for capture in self._captures.values())

    def wants_pause(self, *, busy: bool) -> bool:
        """Whether a shape is worth a capture now; `busy` says that somebody waits. Any thread may ask."""
        return self._due >= (OVERDUE_USES if busy else LEAST_USES)

    def shape(self, rows: int, length: int) -> Shape | None:
        """The captured shape to which a call is best padded, if there is one. Counts what is asked for."""
        found = bucket(rows, length, self._longest)
        if found is None or self._failed:
            return None
        self._uses[found] += 1
        if found in self._captures:
            return found
        if found not in self._refused:
            self._due = max(self._due, self._uses[found])
        return None

    def run(self, numbers: Tensor, shape: Shape | None) -> Tensor:
        """`function(numbers)`, replayed for a captured `shape`, which the numbers have. To be read before the next."""
        return self._captures[shape].replay(numbers) if shape else self._function(numbers)

    def spare(self) -> bool:
        """Captures the shape that was used most, if one is worth it; says whether it did. For when nobody waits."""
        wanted = self._wanted()
        if wanted is None:
            return False
        numbers = self._example(wanted)
        try:
            capture = self._camera.capture(self._function, numbers, self._limit - self.bytes)
        except Uncapturable as error:
            self.close()
            self._failed = True
            self._tell(str(error))
            return True
        if capture is None:
            self._refused.add(wanted)
        else:
            self._captures[wanted] = capture
        following = self._wanted()
        self._due = self._uses[following] if following else 0
        return True

    def close(self) -> None:
        """Drops all captures; they may be made again."""
        self._captures.clear()
        self._uses.clear()
        self._refused.clear()
        self._due = 0

    def _wanted(self) -> Shape | None:
        if self._failed:
            return None
        for shape, uses in self._uses.most_common():
            if uses < LEAST_USES:
                return None
            if shape not in self._captures and shape not in self._refused:
                return shape
        return None


def bucket(rows: int, length: int, longest: int) -> Shape | None:
    """The smallest shape to capture that holds `rows` texts of `length` tokens; None where it would not pay."""
    row, column = bisect_left(ROWS, rows), bisect_left(LENGTHS, length)
    if row == len(ROWS) or column == len(LENGTHS) or ROWS[row] * LENGTHS[column] > MOST_TOKENS:
        return None
    return ROWS[row], max(length, min(LENGTHS[column], longest))


class CudaCamera:
    """Captures on a CUDA device. One for each model: its captures share its pool."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, function: Function, numbers: Tensor, room: int) -> Capture | None:
        """See Camera."""
        stream = torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.stream(stream):  # comes back to it: a capture that fails leaves its own stream behind
                placed = numbers.to(self._device)
                if _need(function, placed) > room:
                    return None
                return CudaCapture(function, placed, self._pool)
        except torch.OutOfMemoryError:
            return None
        except RuntimeError as error:
            torch.cuda.synchronize(self._device)  # raises once more if it was the device's context that failed
            raise Uncapturable(f"{type(error).__name__}: {error}") from error


class CudaCapture:
    """One CUDA graph, with the memory that it reads from and writes to."""

    def __init__(self, function: Function, numbers: Tensor, pool: Pool) -> None:
        self._numbers = numbers
        stream = _capture_stream(numbers.device)
        stream.wait_stream(torch.cuda.current_stream(numbers.device))
        with torch.cuda.stream(stream):  # workspaces go by stream: those taken here are none of the pool's
            for _ in range(WARM_RUNS):
                function(numbers)
        torch.cuda.synchronize(numbers.device)
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(numbers.device)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may lock pages or take memory meanwhile
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._vectors = function(numbers)
        self.bytes = max(0, free - torch.cuda.mem_get_info(numbers.device)[0]) + numbers.nbytes

    def replay(self, numbers: Tensor) -> Tensor:
        """See Capture."""
        self._numbers.copy_(numbers)
        self._graph.replay()
        return self._vectors


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all captures of a device, since each costs a workspace."""
    return cuda.stream(device)


def _need(function: Function, numbers: Tensor) -> int:
    """Bytes that a run takes beside weights and numbers; what libraries take in the first run, they keep."""
    function(numbers)
    torch.cuda.reset_peak_memory_stats(numbers.device)
    before = torch.cuda.memory_allocated(numbers.device)
    function(numbers)
    return torch.cuda.max_memory_allocated(numbers.device) - before
