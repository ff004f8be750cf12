"""The batcher: cut by tokens, fair between models, no timer. The device here computes at once, when it is let."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from gateway.errors import DoesNotFit, Overloaded
from gateway.host.batcher import LEAST_CALL, WASTE, Batcher, Call, Row, Vectors, Work, split

Ids = npt.NDArray[np.int64]


def ids(*lengths: int) -> list[Ids]:
    """Rows whose first number is their length: what they come back as can be checked."""
    return [np.full(length, length, dtype=np.int64) for length in lengths]


class Model:
    """A runtime whose vectors are (length, sum): each row's answer is its own, whatever shared its batch."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.error: Exception | None = None

    def embed(self, rows: Sequence[Ids], prompt_tokens: Sequence[int]) -> Vectors:
        self.calls.append([len(row) for row in rows])
        if self.error:
            raise self.error
        return np.array([(len(row), row.sum()) for row in rows], dtype=np.float32)


class Device:
    """Runs calls one after another, each when `gate` lets it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.order: list[str] = []
        self.requests: list[list[int]] = []
        self.started = 0

    async def run(self, function: Callable[[], Vectors], key: str, requests: list[int]) -> Vectors:
        self.started += 1
        await self.gate.wait()
        self.order.append(key)
        self.requests.append(requests)
        return function()


class Rig:
    """A batcher that is being served, on a device, with one model."""

    def __init__(self, max_tokens: int = 100, max_texts: int = 0, max_queue_tokens: int = 10_000) -> None:
        self.device = Device()
        self.model = Model()
        self.seen: list[Call] = []
        self.now = 0.0
        self.batcher = Batcher(
            self.device.run,
            max_tokens=max_tokens,
            max_texts=max_texts,
            max_queue_tokens=max_queue_tokens,
            on_call=lambda call, seconds: self.seen.append(call),
            clock=self.clock,
        )
        self._number = 0
        self._serving = asyncio.create_task(self.batcher.serve())

    def clock(self) -> float:
        self.now += 0.01
        return self.now

    def ask(self, *lengths: int, key: str = "m", alone: bool = False) -> asyncio.Task[Work]:
        self._number += 1
        asking = self.batcher.embed(key, self.model, self._number, ids(*lengths), alone=alone)
        return asyncio.create_task(asking)

    async def behind(self, *asked: tuple[int, ...]) -> list[asyncio.Task[Work]]:
        """Requests that arrive while the device works on another."""
        self.device.gate.clear()
        first = self.ask(1)
        await until(lambda: self.device.started == 1)
        waiting = [self.ask(*lengths) for lengths in asked]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.device.gate.set()
        await first
        return waiting


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never became so")


def answer(work: Work) -> list[float]:
    assert work.vectors is not None
    return [float(vector[0]) for vector in work.vectors]


async def test_vectors_come_back_in_the_order_of_the_request() -> None:
    rig = Rig()
    work = await rig.ask(9, 2, 30, 5)
    assert answer(work) == [9, 2, 30, 5]
    assert work.tokens == 46


async def test_a_lone_text_never_waits() -> None:
    """There is no timer: with nothing else to do the device takes what is there."""
    rig = Rig()
    await rig.ask(3)
    assert rig.model.calls == [[3]]


async def test_what_arrives_while_the_device_works_is_one_batch() -> None:
    rig = Rig()
    works = await asyncio.gather(*await rig.behind((4,), (5,), (6,)))
    assert [answer(work) for work in works] == [[4], [5], [6]]
    assert rig.model.calls == [[1], [6, 5, 4]]


async def test_a_batch_is_cut_by_tokens() -> None:
    rig = Rig(max_tokens=20)
    await asyncio.gather(*await rig.behind((8,), (8,), (8,), (8,)))
    assert rig.model.calls == [[1], [8, 8], [8, 8]]


async def test_a_batch_is_cut_by_texts_where_the_operator_says_so() -> None:
    rig = Rig(max_texts=2)
    work = await rig.ask(1, 1, 1, 1, 1)
    assert rig.model.calls == [[1, 1], [1, 1], [1]]
    assert answer(work) == [1] * 5


async def test_a_text_longer_than_the_budget_goes_alone_rather_than_never() -> None:
    rig = Rig(max_tokens=20)
    work = await rig.ask(50, 3)
    assert answer(work) == [50, 3]
    assert [50] in rig.model.calls


async def test_a_large_request_is_handed_out_in_parts_and_small_ones_do_not_wait_for_all_of_it() -> None:
    """Of the same model: the small one is behind at most what arrived before it."""
    rig = Rig(max_tokens=10)
    large, small = await rig.behind(tuple([5] * 40), (5,))
    await asyncio.gather(large, small)
    assert answer(large.result()) == [5] * 40
    assert max(len(call) for call in rig.model.calls) == 2


async def test_models_share_the_device_by_tokens() -> None:
    """A bulk job of one model does not starve another: the newcomer gets the next call."""
    rig = Rig(max_tokens=10)
    rig.device.gate.clear()
    bulk = rig.ask(*[10] * 50, key="bulk")
    await until(lambda: rig.device.started == 1)
    query = rig.ask(10, key="query")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rig.device.gate.set()
    await query
    assert rig.device.order.index("query") <= 2
    await bulk


async def test_two_bulk_jobs_get_equal_shares() -> None:
    rig = Rig(max_tokens=10)
    rig.device.gate.clear()
    jobs = [rig.ask(*[10] * 30, key=key) for key in ("a", "b")]
    await asyncio.sleep(0)
    rig.device.gate.set()
    await asyncio.gather(*jobs)
    half = rig.device.order[:30]
    assert abs(half.count("a") - half.count("b")) <= 2


async def test_a_job_that_was_idle_has_saved_up_nothing() -> None:
    """A model that comes late shares from then on; it does not take what it could have had before."""
    rig = Rig(max_tokens=10)
    await rig.ask(*[10] * 30, key="early")
    rig.device.gate.clear()
    jobs = [rig.ask(*[10] * 20, key=key) for key in ("early", "late")]
    await asyncio.sleep(0)
    rig.device.gate.set()
    await asyncio.gather(*jobs)
    both = rig.device.order[30:50]
    assert abs(both.count("early") - both.count("late")) <= 2


async def test_a_request_whose_client_has_gone_is_dropped_when_a_batch_is_cut() -> None:
    rig = Rig()
    rig.device.gate.clear()
    first = rig.ask(1)
    await until(lambda: rig.device.started == 1)
    gone, here = rig.ask(7, 7, 7), rig.ask(4)
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    rig.device.gate.set()
    await asyncio.gather(first, here)
    assert rig.model.calls == [[1], [4]]
    assert rig.batcher.queue_tokens == 0


async def test_what_failed_fails_its_own_requests_and_no_others() -> None:
    rig = Rig(max_tokens=10)
    rig.model.error = DoesNotFit("too much")
    with pytest.raises(DoesNotFit):
        await rig.ask(10, 10)
    rig.model.error = None
    assert answer(await rig.ask(3)) == [3]
    assert rig.batcher.queue_tokens == 0


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    rig = Rig(max_tokens=10, max_queue_tokens=50)
    await rig.ask(10)  # now the rate is known
    rig.device.gate.clear()
    jobs = [rig.ask(10)]
    await until(lambda: rig.device.started == 2)
    jobs += [rig.ask(10) for _ in range(5)]
    await until(lambda: rig.batcher.queue_tokens == 50)
    with pytest.raises(Overloaded) as refused:
        await rig.ask(10)
    rate = 10 / 0.01  # one call of 10 tokens took one tick of the clock
    assert refused.value.retry_after == pytest.approx(max(0.1, 50 / rate))
    assert refused.value.details["queued"] == 50
    rig.device.gate.set()
    await asyncio.gather(*jobs)
    assert rig.batcher.queue_tokens == 0


async def test_one_request_larger_than_the_queue_is_served_when_nothing_waits() -> None:
    rig = Rig(max_tokens=10, max_queue_tokens=50)
    assert len(answer(await rig.ask(*[10] * 20))) == 20


async def test_a_suspect_runs_in_a_batch_of_its_own() -> None:
    """So that whoever killed a host cannot take its neighbours along a second time."""
    rig = Rig()
    rig.device.gate.clear()
    first = rig.ask(1)
    await until(lambda: rig.device.started == 1)
    others = [rig.ask(4), rig.ask(5, alone=True), rig.ask(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rig.device.gate.set()
    await asyncio.gather(first, *others)
    assert [5] in rig.model.calls
    assert [6, 4] in rig.model.calls


async def test_a_device_call_names_the_requests_in_it() -> None:
    rig = Rig()
    await asyncio.gather(*await rig.behind((4, 4), (5,)))
    assert sorted(rig.device.requests[1]) == [2, 3]


async def test_times_are_told_for_each_request() -> None:
    rig = Rig()
    work = await rig.ask(5)
    assert work.queue_seconds is not None
    assert work.queue_seconds > 0
    assert work.compute_seconds > 0


@pytest.mark.parametrize("seed", range(20))
def test_splitting_keeps_every_row_and_bounds_the_padding(seed: int) -> None:
    """No device call computes more than its padded budget, nor more padding than a call is worth."""
    chance = random.Random(seed)

    async def check() -> None:
        lengths = [chance.randint(1, 512) for _ in range(chance.randint(1, 200))]
        work = Work(1, ids(*lengths), 0, 0.0)
        rows = [Row(work, index) for index in range(len(lengths))]
        calls = split(rows, 4096)
        assert sorted(row.index for call in calls for row in call) == list(range(len(lengths)))
        for call in calls:
            padded = max(row.tokens for row in call) * len(call)
            waste = padded - sum(row.tokens for row in call)
            assert padded <= 4096 or len(call) == 1
            assert waste <= max(LEAST_CALL, WASTE * padded)

    asyncio.run(check())
