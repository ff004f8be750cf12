"""Merges waiting texts into device calls, cut by tokens. There is no timer: while the device works, the next batch
grows; when it is free, it takes what is there, so a lone text never waits.

Each generation has a queue, and the device goes to the one that has had the fewest tokens of it (start-time fair
queueing: Goyal, Vin, Cheng 1996), so a bulk job of one model does not starve another. A request whose client has
gone is dropped when a batch is cut. A vector never depends on what shared its batch, beyond rounding.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gateway.errors import Overloaded

Vectors = npt.NDArray[np.float32]
WASTE = 0.25  # padding that a device call may carry, as a share of its tokens
LEAST_CALL = 256  # tokens below which another device call costs more than the padding it saves
RATE_MEMORY = 0.8  # weight of the past in the measured rate


class Embedder(Protocol):
    def embed(self, rows: Sequence[npt.NDArray[np.int64]], prompt_tokens: Sequence[int]) -> Vectors:
        """Token ids -> float32 [rows, dim]. On the device lane."""


class Work:
    """The texts of one request, as they are handed out in batches and come back."""

    def __init__(self, request: int, rows: Sequence[npt.NDArray[np.int64]], prompt_tokens: int, now: float) -> None:
        self.request = request
        self.rows = rows
        self.prompt_tokens = prompt_tokens
        self.order = deque(sorted(range(len(rows)), key=lambda row: len(rows[row])))  # what still waits, short first
        self.tokens = sum(len(row) for row in rows)
        self.missing = len(rows)
        self.vectors: Vectors | None = None
        self.enqueued = now
        self.queue_seconds: float | None = None  # until its first row was on the device
        self.compute_seconds = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


@dataclass
class Queue:
    """The works of one generation. `served` is its virtual time: tokens of the device that it has had."""

    embedder: Embedder
    works: deque[Work] = field(default_factory=deque)
    served: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    work: Work
    index: int

    @property
    def tokens(self) -> int:
        return len(self.work.rows[self.index])


@dataclass(frozen=True, slots=True)
class Call:
    """One device call: rows of similar length, of one generation."""

    key: str
    embedder: Embedder
    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)

    @property
    def padded_tokens(self) -> int:
        return len(self.rows) * max(row.tokens for row in self.rows)

    @property
    def requests(self) -> list[int]:
        return list(dict.fromkeys(row.work.request for row in self.rows))


def split(rows: Sequence[Row], most_tokens: int) -> list[list[Row]]:
    """Rows of one batch -> device calls of similar length: little padding, and none over `most_tokens` padded."""
    calls: list[list[Row]] = []
    longest = total = 0
    for row in sorted(rows, key=lambda row: row.tokens, reverse=True):
        if calls:
            padded = longest * (len(calls[-1]) + 1)
            waste = padded - total - row.tokens
            if padded <= most_tokens and waste <= max(LEAST_CALL, WASTE * padded):
                calls[-1].append(row)
                total += row.tokens
                continue
        calls.append([row])
        longest = total = row.tokens
    return calls


class Batcher:
    """The queues of one device.

    `run(function, key, requests)` runs a device call on the device lane. `max_tokens` and `max_texts` bound one call,
    `max_queue_tokens` all that waits.
    """

    def __init__(
        self,
        run: Callable[[Callable[[], Vectors], str, list[int]], Awaitable[Vectors]],
        *,
        max_tokens: int,
        max_texts: int,
        max_queue_tokens: int,
        on_call: Callable[[Call, float], None] = lambda call, seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._max_tokens = max_tokens
        self._max_texts = max_texts or 1 << 30
        self._max_queue_tokens = max_queue_tokens
        self._on_call = on_call
        self._clock = clock
        self._queues: dict[str, Queue] = {}
        self._alone: deque[tuple[str, Embedder, Work]] = deque()
        self._virtual = 0.0
        self._rate = 0.0  # tokens a second, measured
        self._wake = asyncio.Event()
        self.queue_tokens = 0

    async def embed(
        self,
        key: str,
        embedder: Embedder,
        request: int,
        rows: Sequence[npt.NDArray[np.int64]],
        prompt_tokens: int = 0,
        *,
        alone: bool = False,
    ) -> Work:
        """The vectors of one request, float32 [rows, dim], in its order. `rows` has one at least.

        Raises Overloaded when too much waits already, and whatever the embedder raises.
        """
        work = Work(request, rows, prompt_tokens, self._clock())
        self._refuse_if_full(work)
        self._enqueue(key, embedder, work, alone)
        try:
            await work.done
        except asyncio.CancelledError:
            self._drop(work)
            raise
        return work

    async def serve(self) -> None:
        """Feeds the device for ever. To be run once, as a task."""
        while True:
            await self._wake.wait()
            for call in self._cut():
                await self._call(call)

    # Deciding: no awaits.

    def _refuse_if_full(self, work: Work) -> None:
        if self.queue_tokens and self.queue_tokens + work.tokens > self._max_queue_tokens:
            wait = self.queue_tokens / self._rate if self._rate else 1.0
            raise Overloaded(
                f"{self.queue_tokens} tokens wait on the device already",
                retry_after=max(0.1, wait),
                queued=self.queue_tokens,
            )

    def _enqueue(self, key: str, embedder: Embedder, work: Work, alone: bool) -> None:
        self.queue_tokens += work.tokens
        if alone:
            self._alone.append((key, embedder, work))
        else:
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = Queue(embedder, served=self._virtual)
            queue.works.append(work)
        self._wake.set()

    def _drop(self, work: Work) -> None:
        """Its client has gone, or a call of it failed: what still waits is not computed."""
        self.queue_tokens -= sum(len(work.rows[index]) for index in work.order)
        work.order.clear()

    def _cut(self) -> list[Call]:
        """The next batch, as device calls; takes what waits longest in the queue that has had least."""
        while self._alone:
            key, embedder, work = self._alone.popleft()
            if rows := self._take(work, 1 << 60, 1 << 30):
                return [Call(key, embedder, tuple(part)) for part in split(rows, self._max_tokens)]
        while self._queues:
            key, queue = min(self._queues.items(), key=lambda item: item[1].served)
            rows = self._fill(queue)
            if not queue.works:
                del self._queues[key]
            if rows:
                self._virtual = queue.served
                queue.served += sum(row.tokens for row in rows)
                return [Call(key, queue.embedder, tuple(part)) for part in split(rows, self._max_tokens)]
        self._wake.clear()
        return []

    def _fill(self, queue: Queue) -> list[Row]:
        rows: list[Row] = []
        tokens = 0
        while queue.works and tokens < self._max_tokens and len(rows) < self._max_texts:
            work = queue.works[0]
            taken = self._take(work, self._max_tokens - tokens, self._max_texts - len(rows))
            rows += taken
            tokens += sum(row.tokens for row in taken)
            if work.order and not taken:
                break  # its next row does not fit beside these
            if not work.order:
                queue.works.popleft()
        return rows

    def _take(self, work: Work, tokens: int, texts: int) -> list[Row]:
        """The shortest rows of a work that fit; one at least when the batch is empty."""
        rows: list[Row] = []
        whole = tokens >= self._max_tokens
        while work.order and len(rows) < texts:
            row = Row(work, work.order[0])
            if row.tokens > tokens and (rows or not whole):
                break
            work.order.popleft()
            tokens -= row.tokens
            self.queue_tokens -= row.tokens
            rows.append(row)
        return rows

    # Acting.

    async def _call(self, call: Call) -> None:
        rows = [row for row in call.rows if not row.work.done.done()]
        if not rows:
            return
        call = Call(call.key, call.embedder, tuple(rows))
        began = self._clock()
        try:
            vectors = await self._run(lambda: _embed(call), call.key, call.requests)
        except Exception as error:  # it belongs to the requests of this call, and ends nobody else's
            for row in call.rows:
                if not row.work.done.done():
                    row.work.done.set_exception(error)
                    self._drop(row.work)
            return
        seconds = self._clock() - began
        self._measure(call.tokens / seconds if seconds > 0 else 0.0)
        self._on_call(call, seconds)
        self._deliver(call, vectors, began, seconds)

    def _measure(self, rate: float) -> None:
        self._rate = RATE_MEMORY * self._rate + (1 - RATE_MEMORY) * rate if self._rate else rate

    def _deliver(self, call: Call, vectors: Vectors, began: float, seconds: float) -> None:
        works: dict[int, Work] = {}
        for row, vector in zip(call.rows, vectors, strict=True):
            work = row.work
            works[id(work)] = work
            if work.vectors is None:
                work.vectors = np.empty((len(work.rows), vectors.shape[1]), np.float32)
            work.vectors[row.index] = vector
            work.missing -= 1
        for work in works.values():
            work.compute_seconds += seconds
            if work.queue_seconds is None:
                work.queue_seconds = began - work.enqueued
            if not work.missing and not work.done.done():
                work.done.set_result(None)


def _embed(call: Call) -> Vectors:
    return call.embedder.embed(
        [row.work.rows[row.index] for row in call.rows], [row.work.prompt_tokens for row in call.rows]
    )
