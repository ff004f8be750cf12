"""The batcher: cut by tokens, merged, no timer. The device here computes at once, when it is let."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.errors import DeadlineExceeded, DoesNotFit
from gateway.host.work import LEAST_CALL, Call
from tests.host.rigs import Rig, answer, until


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def rig(**options: int) -> Rig:
        made.append(Rig(**options))
        return made[-1]

    yield rig
    for each in made:
        await each.close()


Make = Callable[..., Rig]


async def test_vectors_come_back_in_the_order_of_the_request(make: Make) -> None:
    rig = make()
    work = await rig.ask(9, 2, 30, 5)
    assert answer(work) == [9, 2, 30, 5]
    assert work.tokens == 46


async def test_vectors_come_back_in_order_from_a_runtime_that_pads_too(make: Make) -> None:
    rig = make(packed=False, max_tokens=40)
    work = await rig.ask(9, 2, 30, 5, 9, 2)
    assert answer(work) == [9, 2, 30, 5, 9, 2]


async def test_a_lone_text_never_waits(make: Make) -> None:
    """There is no timer: with nothing else to do the device takes what is there."""
    rig = make()
    await rig.ask(3)
    assert rig.model.calls == [[3]]


async def test_what_arrives_while_the_device_works_is_one_batch(make: Make) -> None:
    rig = make()
    works = await asyncio.gather(*await rig.behind((4,), (5,), (6,)))
    assert [answer(work) for work in works] == [[4], [5], [6]]
    assert rig.model.calls == [[1], [4, 5, 6]]


async def test_a_batch_is_cut_by_tokens(make: Make) -> None:
    rig = make(max_tokens=20)
    await asyncio.gather(*await rig.behind((8,), (8,), (8,), (8,)))
    assert rig.model.calls == [[1], [8, 8], [8, 8]]


async def test_a_batch_is_cut_by_texts_where_the_operator_says_so(make: Make) -> None:
    rig = make(max_texts=2)
    work = await rig.ask(1, 1, 1, 1, 1)
    assert rig.model.calls == [[1, 1], [1, 1], [1]]
    assert answer(work) == [1] * 5


async def test_a_text_longer_than_the_budget_goes_alone_rather_than_never(make: Make) -> None:
    rig = make(max_tokens=20)
    work = await rig.ask(50, 3)
    assert answer(work) == [50, 3]
    assert [50] in rig.model.calls


async def test_a_runtime_without_padding_computes_texts_of_any_lengths_in_one_call(make: Make) -> None:
    rig = make(max_tokens=2000)
    work = await rig.ask(1, 1000, 2, 500)
    assert rig.model.calls == [[1, 1000, 2, 500]]
    assert [call.padded_tokens for call in rig.seen] == [1503]
    assert answer(work) == [1, 1000, 2, 500]


async def test_a_runtime_with_padding_gets_texts_of_one_length_together(make: Make) -> None:
    rig = make(packed=False, max_tokens=2000)
    work = await rig.ask(1, 1000, 2, 400)
    assert sorted(map(sorted, rig.model.calls)) == [[1, 2], [400], [1000]]
    assert all(call.padded_tokens - call.tokens <= LEAST_CALL for call in rig.seen)
    assert answer(work) == [1, 1000, 2, 400]


async def test_a_full_batch_is_handed_over_while_another_runs(make: Make) -> None:
    """So the device never waits for the loop while there is work enough."""
    rig = make(max_tokens=20)
    rig.device.gate.clear()
    work = rig.ask(*[10] * 8)
    await until(lambda: rig.device.started == 2)
    assert rig.batcher.queue_tokens == 40
    assert rig.batcher.backlog.underway == 40
    rig.device.gate.set()
    assert answer(await work) == [10] * 8
    assert rig.model.calls == [[10, 10]] * 4
    assert rig.batcher.backlog.underway == 0


async def test_a_batch_that_can_still_grow_is_not_handed_over_early(make: Make) -> None:
    rig = make(max_tokens=20)
    rig.device.gate.clear()
    works = [rig.ask(10), rig.ask(5)]
    await until(lambda: rig.device.started == 1 and rig.batcher.queue_tokens == 0)
    works += [rig.ask(5), rig.ask(6)]
    await until(lambda: rig.batcher.queue_tokens == 11)
    await rig.turns()
    assert rig.device.started == 1
    rig.device.gate.set()
    await asyncio.gather(*works)
    assert rig.model.calls == [[10, 5], [5, 6]]


async def test_a_batch_leaves_another_behind_it_where_there_is_enough_for_two(make: Make) -> None:
    """So the device has work while those whose texts it has computed come back."""
    rig = make(max_tokens=100, enough_tokens=20)
    works = await rig.behind(*[(5,)] * 12)
    await asyncio.gather(*works)
    assert [len(call) for call in rig.model.calls] == [1, 6, 4, 2]


async def test_a_batch_takes_everything_where_there_is_not_enough_for_two(make: Make) -> None:
    rig = make(max_tokens=100, enough_tokens=40)
    works = await rig.behind(*[(5,)] * 8)
    await asyncio.gather(*works)
    assert [len(call) for call in rig.model.calls] == [1, 8]


async def test_a_request_whose_client_has_gone_is_dropped_when_a_batch_is_cut(make: Make) -> None:
    rig = make()
    rig.device.gate.clear()
    first = rig.ask(1)
    await until(lambda: rig.device.started == 1)
    gone, here = rig.ask(7, 7, 7), rig.ask(4)
    await rig.turns()
    gone.cancel()
    await rig.turns()
    rig.device.gate.set()
    await asyncio.gather(first, here)
    assert rig.model.calls == [[1], [4]]
    assert rig.batcher.queue_tokens == 0


async def test_what_was_cut_for_a_client_that_has_gone_since_is_not_computed(make: Make) -> None:
    rig = make(max_tokens=20, packed=False)
    rig.device.gate.clear()
    first = rig.ask(1)
    await until(lambda: rig.device.started == 1)
    gone = rig.ask(10, 10, 10, 10)
    await until(lambda: rig.device.started == 2)  # its first half waits behind the call that runs
    gone.cancel()
    await rig.turns()
    assert rig.batcher.queue_tokens == 0
    rig.device.gate.set()
    await first
    assert answer(await rig.ask(3)) == [3]
    assert rig.model.calls == [[1], [10, 10], [3]]


async def test_a_request_whose_deadline_passed_while_it_waited_is_not_computed(make: Make) -> None:
    rig = make()
    rig.device.gate.clear()
    first = rig.ask(1)
    await until(lambda: rig.device.started == 1)
    late, here = rig.ask(7, 7, deadline=rig.now + 5), rig.ask(4, deadline=rig.now + 500)
    await rig.turns()
    rig.now += 50
    rig.device.gate.set()
    with pytest.raises(DeadlineExceeded):
        await late
    assert answer(await here) == [4]
    await first
    assert rig.model.calls == [[1], [4]]
    assert rig.batcher.queue_tokens == 0


async def test_a_suspect_whose_deadline_has_passed_is_not_computed_either(make: Make) -> None:
    rig = make()
    with pytest.raises(DeadlineExceeded):
        await rig.ask(7, deadline=rig.now, alone=True)
    assert answer(await rig.ask(4)) == [4]
    assert rig.model.calls == [[4]]
    assert rig.batcher.queue_tokens == 0


async def test_what_failed_fails_its_own_requests_and_no_others(make: Make) -> None:
    rig = make(max_tokens=10)
    rig.model.error = DoesNotFit("too much")
    with pytest.raises(DoesNotFit):
        await rig.ask(10, 10)
    rig.model.error = None
    assert answer(await rig.ask(3)) == [3]
    assert rig.batcher.queue_tokens == 0


async def test_one_request_larger_than_the_queue_is_served_when_nothing_waits(make: Make) -> None:
    rig = make(max_tokens=10, max_queue_tokens=50)
    rig.batcher.backlog.refuse_if_full("m", "")
    assert len(answer(await rig.ask(*[10] * 20))) == 20


async def test_a_suspect_runs_in_a_batch_of_its_own(make: Make) -> None:
    """So that whoever killed a host cannot take its neighbours along a second time."""
    rig = make()
    rig.device.gate.clear()
    first = rig.ask(1)
    await until(lambda: rig.device.started == 1)
    others = [rig.ask(4), rig.ask(5, alone=True), rig.ask(6)]
    await rig.turns()
    rig.device.gate.set()
    await asyncio.gather(first, *others)
    assert [5] in rig.model.calls
    assert [4, 6] in rig.model.calls


async def test_a_device_call_names_the_requests_in_it(make: Make) -> None:
    rig = make()
    await asyncio.gather(*await rig.behind((4, 4), (5,)))
    assert sorted(rig.device.requests[1]) == [2, 3]


async def test_times_are_told_for_each_request(make: Make) -> None:
    """A call that waits behind another has not begun."""
    rig = make(max_tokens=10)
    rig.device.seconds = 2.0
    works = await asyncio.gather(rig.ask(10), rig.ask(10), rig.ask(10))
    assert [work.compute_seconds for work in works] == [2.0] * 3
    assert [work.queue_seconds for work in works] == [0.0, 2.0, 4.0]


async def test_the_rate_counts_the_time_for_which_there_was_work(make: Make) -> None:
    """Idle time is nobody's; a queue is computed in the time that was told."""
    rig = make(max_tokens=10)
    rig.device.seconds = 0.5
    await rig.ask(10)
    rig.now += 1000
    await rig.ask(*[10] * 3)
    rig.batcher.backlog.add("m", "", 400)
    assert rig.batcher.backlog.wait("m", "") == pytest.approx(20.0)


async def test_an_error_that_is_nobodys_ends_the_serving_loudly(make: Make) -> None:
    rig = make()

    def broken(call: Call) -> None:
        raise RuntimeError("a bug")

    rig.on_call = broken
    asking = rig.ask(1)
    with pytest.raises(ExceptionGroup, match="unhandled"):
        await rig.serving
    asking.cancel()
