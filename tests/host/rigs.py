"""A batcher on a device that computes at once, when it is let, and on a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gateway.host.batcher import Batcher
from gateway.host.work import Call, Vectors, Work

Ids = npt.NDArray[np.int64]


def ids(*lengths: int) -> list[Ids]:
    """Rows whose numbers are their length: what they come back as can be checked."""
    return [np.full(length, length, dtype=np.int64) for length in lengths]


class Model:
    """A runtime whose vectors are (length, sum): each row's answer is its own, whatever shared its batch."""

    def __init__(self, *, packed: bool = True) -> None:
        self.packed = packed
        self.calls: list[list[int]] = []
        self.error: Exception | None = None

    def embed(self, rows: Sequence[Ids], prompt_tokens: Sequence[int]) -> Vectors:
        assert len(prompt_tokens) == len(rows)
        self.calls.append([len(row) for row in rows])
        if self.error:
            raise self.error
        return np.array([(len(row), row.sum()) for row in rows], dtype=np.float32)


class Device:
    """Runs calls one after another, each when `gate` lets it. On the rig's clock a call lasts `seconds`, and those of
    each token of its model in addition."""

    def __init__(self, pass_time: Callable[[float], None]) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.lane = asyncio.Lock()
        self.pass_time = pass_time
        self.seconds = 0.0
        self.token_seconds: dict[str, float] = {}
        self.order: list[str] = []
        self.requests: list[list[int]] = []
        self.started = 0

    async def run(self, function: Callable[[], Vectors], key: str, requests: list[int]) -> Vectors:
        self.started += 1
        async with self.lane:
            await self.gate.wait()
            self.order.append(key)
            self.requests.append(requests)
            call = function.__self__  # whose `run` it is
            self.pass_time(self.seconds + call.tokens * self.token_seconds.get(key, 0.0))
            return function()


class Rig:
    """A batcher that is being served, with one model."""

    def __init__(
        self,
        *,
        max_tokens: int = 100,
        enough_tokens: int = 0,  # as many as `max_tokens`
        max_texts: int = 0,
        max_queue_tokens: int = 10_000,
        packed: bool = True,
    ) -> None:
        self.now = 0.0
        self.device = Device(self.pass_time)
        self.model = Model(packed=packed)
        self.seen: list[Call] = []
        self.on_call: Callable[[Call], None] = self.seen.append
        self.batcher = Batcher(
            self.device.run,
            max_tokens=max_tokens,
            enough_tokens=enough_tokens or max_tokens,
            max_texts=max_texts,
            max_queue_tokens=max_queue_tokens,
            on_call=lambda call, seconds: self.on_call(call),
            clock=lambda: self.now,
        )
        self._number = 0
        self.serving = asyncio.create_task(self.batcher.serve())

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def ask(
        self,
        *lengths: int,
        key: str = "m",
        flow: str = "",
        weight: float = 1.0,
        deadline: float | None = None,
        alone: bool = False,
    ) -> asyncio.Task[Work]:
        self._number += 1
        asking = self.batcher.embed(
            key, self.model, self._number, ids(*lengths), flow=flow, weight=weight, deadline=deadline, alone=alone
        )
        return asyncio.create_task(asking)

    async def behind(self, *asked: tuple[int, ...]) -> list[asyncio.Task[Work]]:
        """Requests that arrive while the device works on another."""
        self.device.gate.clear()
        first = self.ask(1)
        await until(lambda: self.device.started == 1)
        waiting = [self.ask(*lengths) for lengths in asked]
        await self.turns()
        self.device.gate.set()
        await first
        return waiting

    async def turns(self, number: int = 5) -> None:
        """Of the loop: what can go on has gone on."""
        for _ in range(number):
            await asyncio.sleep(0)

    async def close(self) -> None:
        self.serving.cancel()
        await asyncio.wait({self.serving})


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never became so")


def answer(work: Work) -> list[float]:
    assert work.vectors is not None
    assert [float(total) for total in work.vectors[:, 1]] == [len(row) ** 2 for row in work.rows]
    return [float(length) for length in work.vectors[:, 0]]
