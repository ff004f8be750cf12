"""Models, tenants and requests share a device by tokens, and ride together. All of it without a clock."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.host.batcher import SLICE
from gateway.host.work import Call
from tests.host.rigs import Rig, answer, until

MOST = 1024  # tokens of a batch
lengths = st.lists(st.integers(1, 600), min_size=1, max_size=12)
requests = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x", "y"]), lengths, st.booleans()), min_size=1, max_size=25
)


def tokens_of(calls: list[Call], by: str) -> Counter[str]:
    """What each model, or each request, had of these calls."""
    had: Counter[str] = Counter()
    for call in calls:
        for part in call.parts:
            had[call.key if by == "model" else str(part.work.request)] += part.tokens
    return had


@settings(max_examples=60, deadline=None)
@given(requests, st.booleans(), st.randoms(use_true_random=False))
def test_every_row_comes_back_once_in_its_place_and_nothing_is_left_counted(
    asked: list[tuple[str, str, list[int], bool]], packed: bool, chance: object
) -> None:
    """Whatever comes together, in whatever flows, and whoever leaves in the middle."""

    async def check() -> None:
        rig = Rig(max_tokens=MOST, packed=packed)
        tasks = []
        for key, flow, rows, leaves in asked:
            tasks.append((rig.ask(*rows, key=key, flow=flow), rows, leaves))
            await rig.turns(2)
        for task, _, leaves in tasks:
            if leaves:
                task.cancel()
        for task, rows, leaves in tasks:
            if not leaves or not task.cancelled():
                done = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 300)
                if not leaves:
                    assert answer(done[0]) == rows
        await until(lambda: rig.batcher.queue_tokens == 0)
        assert not rig.batcher.backlog._models
        await rig.close()

    asyncio.run(check())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x"]), lengths), min_size=1, max_size=20))
def test_the_count_of_what_waits_is_exact(asked: list[tuple[str, str, list[int]]]) -> None:
    """After every step of the device: the rows that have not been handed out."""

    async def check() -> None:
        rig = Rig(max_tokens=MOST)
        rig.device.gate.clear()
        counted: list[int] = []
        waiting: list[int] = []

        def compare(call: Call) -> None:
            queues = rig.batcher._queues.values()
            works = [work for queue in queues for works in queue.works.values() for work in works]
            waiting.append(sum(len(work.rows[index]) for work in works for index in work.order[work.taken :]))
            counted.append(rig.batcher.queue_tokens)

        rig.on_call = compare
        tasks = [rig.ask(*rows, key=key, flow=flow) for key, flow, rows in asked]
        await rig.turns()
        rig.device.gate.set()
        await asyncio.gather(*tasks)
        assert counted == waiting
        assert counted[-1] == 0
        await rig.close()

    asyncio.run(check())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=4), st.integers(8, 300))
def test_busy_models_share_the_device_by_weight(weights: list[float], row: int) -> None:
    async def check() -> None:
        rig = Rig(max_tokens=MOST, max_queue_tokens=10**9)
        rig.device.gate.clear()
        rows = [row] * (60_000 // row)
        tasks = [rig.ask(*rows, key=str(number), weight=weight) for number, weight in enumerate(weights)]
        await rig.turns()
        rig.device.gate.set()
        await until(lambda: len(rig.seen) >= 20)
        shares = tokens_of(rig.seen[1:20], "model")  # the first went before the others were there
        for one, first in enumerate(weights):
            for other, second in enumerate(weights):
                difference = shares[str(one)] / first - shares[str(other)] / second
                assert abs(difference) <= 2 * MOST / first + 2 * MOST / second
        await asyncio.gather(*tasks)
        await rig.close()

    asyncio.run(check())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(8, 900), min_size=2, max_size=6))
def test_requests_of_one_flow_share_its_calls_by_tokens_whatever_their_texts_lengths(rows: list[int]) -> None:
    async def check() -> None:
        rig = Rig(max_tokens=MOST, max_queue_tokens=10**9)
        rig.device.gate.clear()
        first = rig.ask(1)
        await until(lambda: rig.device.started == 1)
        tasks = [rig.ask(*[row] * (40_000 // row + 1)) for row in rows]
        await rig.turns()
        rig.device.gate.set()
        await until(lambda: len(rig.seen) >= 20)
        had = tokens_of(rig.seen[1:20], "request")
        shares = [had[str(number + 2)] for number in range(len(rows))]
        assert max(shares) - min(shares) <= SLICE + 2 * max(rows)
        await asyncio.gather(first, *tasks)
        await rig.close()

    asyncio.run(check())


async def test_a_small_request_rides_with_the_next_slice_of_a_huge_one() -> None:
    rig = Rig(max_tokens=MOST)
    rig.device.gate.clear()
    huge = rig.ask(*[16] * 2048)
    await until(lambda: rig.device.started == 2)
    small = [rig.ask(16) for _ in range(20)]
    await rig.turns()
    rig.device.gate.set()
    works = await asyncio.gather(*small)
    assert all(answer(work) == [16] for work in works)
    third = rig.seen[2]  # two were on their way
    assert {work.request for work in works} < set(third.requests)
    assert third.tokens == MOST, "and the huge one fills what is left of it"
    assert len(answer(await huge)) == 2048
    await rig.close()


async def test_a_bulk_tenant_does_not_starve_another_of_the_same_model() -> None:
    rig = Rig(max_tokens=MOST, max_queue_tokens=10**9)
    rig.device.gate.clear()
    bulk = [rig.ask(*[16] * 500, flow="bulk") for _ in range(30)]
    await until(lambda: rig.device.started == 2)
    queries = [rig.ask(16, flow="query") for _ in range(10)]
    await rig.turns()
    rig.device.gate.set()
    works = await asyncio.gather(*queries)
    assert {work.request for work in works} < set(rig.seen[2].requests), "the first call that was cut after they came"
    await asyncio.gather(*bulk)
    await rig.close()


async def test_two_tenants_get_equal_shares_however_many_requests_they_send() -> None:
    rig = Rig(max_tokens=MOST, max_queue_tokens=10**9)
    rig.device.gate.clear()
    many = [rig.ask(*[16] * 100, flow="many") for _ in range(40)]
    one = rig.ask(*[16] * 4000, flow="one")
    await rig.turns()
    rig.device.gate.set()
    await until(lambda: len(rig.seen) >= 20)
    had = tokens_of(rig.seen[2:20], "request")
    share = had[str(41)] / had.total()
    assert share == pytest.approx(0.5, abs=0.05)
    await asyncio.gather(one, *many)
    await rig.close()


async def test_a_bulk_job_of_one_model_does_not_starve_another() -> None:
    """The newcomer gets the next call."""
    rig = Rig(max_tokens=10)
    rig.device.gate.clear()
    bulk = rig.ask(*[10] * 50, key="bulk")
    await until(lambda: rig.device.started == 2)
    query = rig.ask(10, key="query")
    await rig.turns()
    rig.device.gate.set()
    await query
    assert rig.device.order.index("query") == 2
    await bulk
    await rig.close()


async def test_queries_that_never_pause_do_not_starve_a_bulk_job() -> None:
    """Each finds the queue without its like, and would be first if its model's share were forgotten each time."""
    rig = Rig(max_tokens=10)
    bulk = rig.ask(*[10] * 20, key="bulk")
    queries = {rig.ask(10, key="query") for _ in range(3)}
    for _ in range(200):
        _, queries = await asyncio.wait(queries, return_when=asyncio.FIRST_COMPLETED)
        queries |= {rig.ask(10, key="query") for _ in range(3 - len(queries))}
        if bulk.done():
            break
    assert bulk.done()
    order = rig.device.order[: 1 + max(index for index, key in enumerate(rig.device.order) if key == "bulk")]
    assert order.count("bulk") == 20
    assert order.count("query") <= 24
    await asyncio.gather(*queries)
    await rig.close()


async def test_the_wait_that_is_told_is_the_wait_that_comes() -> None:
    """For a model that shares the device with a slower one, and for a tenant that shares the model with another."""
    rig = Rig(max_tokens=MOST, max_queue_tokens=10**9)
    rig.device.seconds, rig.device.token_seconds = 0.02, {"fast": 0.0001, "slow": 0.001}
    await asyncio.gather(rig.ask(*[16] * 500, key="fast"), rig.ask(*[16] * 500, key="slow"))  # now rates are known
    rig.device.gate.clear()
    jobs = [rig.ask(*[16] * 3000, key="fast", flow="one"), rig.ask(*[100] * 900, key="slow")]
    jobs += [rig.ask(*[16] * 8000, key="fast", flow="two")]
    await rig.turns()
    told, asked = rig.batcher.backlog.wait("fast", "one"), rig.now
    rig.device.gate.set()
    await jobs[0]
    assert told == pytest.approx(rig.now - asked, rel=0.15)
    await asyncio.gather(*jobs)
    await rig.close()


async def test_a_job_that_was_idle_has_saved_up_nothing() -> None:
    """A model that comes late shares from then on; it does not take what it could have had before."""
    rig = Rig(max_tokens=10)
    await rig.ask(*[10] * 30, key="early")
    rig.device.gate.clear()
    jobs = [rig.ask(*[10] * 20, key=key) for key in ("early", "late")]
    await rig.turns()
    rig.device.gate.set()
    await asyncio.gather(*jobs)
    both = rig.device.order[30:50]
    assert abs(both.count("early") - both.count("late")) <= 2
    await rig.close()
