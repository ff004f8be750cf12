"""Lanes: order, width, and what is finished when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.lane import Lane, leave


def fail() -> None:
    raise KeyError("inside")


async def test_a_lane_of_one_thread_runs_in_the_order_of_arrival() -> None:
    lane, gate, order = Lane("test"), threading.Event(), list[int]()
    blocked = asyncio.ensure_future(lane.run(gate.wait))
    waiting = [asyncio.ensure_future(lane.run(order.append, number)) for number in range(50)]
    await asyncio.sleep(0)  # each has been handed in
    assert order == []
    gate.set()
    await asyncio.gather(blocked, *waiting)
    assert order == list(range(50))
    lane.close()


async def test_answers_and_exceptions_come_out_where_they_were_asked_for() -> None:
    lane = Lane("test")
    assert await lane.run(divmod, 7, 2) == (3, 1)
    assert await lane.run(int, "ff", base=16) == 255
    with pytest.raises(KeyError, match="inside"):
        await lane.run(fail)
    assert await lane.run(len, "abc") == 3
    lane.close()


async def test_work_runs_off_the_loop_on_a_thread_that_has_the_lanes_name() -> None:
    lane = Lane("disk")
    name = await lane.run(lambda: threading.current_thread().name)
    assert name.startswith("disk")
    assert name != threading.current_thread().name
    lane.close()


async def test_a_wide_lane_runs_as_many_at_once_as_it_is_wide() -> None:
    lane, meet = Lane("test", 3), threading.Barrier(3)
    await asyncio.gather(*(lane.run(meet.wait, 300) for _ in range(3)))  # a narrower lane would break the barrier
    assert lane.width == 3
    lane.close()


async def test_work_that_has_begun_is_finished_though_its_caller_has_gone() -> None:
    lane, begun, gate, done = Lane("test"), threading.Event(), threading.Event(), list[str]()

    def work() -> None:
        begun.set()
        gate.wait()
        done.append("work")

    caller = asyncio.ensure_future(lane.run(work))
    await asyncio.to_thread(begun.wait)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await lane.run(done.append, "next")
    assert done == ["work", "next"]
    lane.close()


async def test_work_whose_caller_has_gone_before_it_began_is_never_begun() -> None:
    lane, gate, done = Lane("test"), threading.Event(), list[str]()
    blocked = asyncio.ensure_future(lane.run(gate.wait))
    caller = asyncio.ensure_future(lane.run(done.append, "unwanted"))
    await asyncio.sleep(0)  # both have been handed in
    caller.cancel()
    await asyncio.sleep(0)
    gate.set()
    await blocked
    await lane.run(done.append, "next")
    assert done == ["next"]
    lane.close()


async def test_closing_finishes_what_runs_drops_what_waits_and_takes_no_more() -> None:
    lane, begun, gate, done = Lane("test"), threading.Event(), threading.Event(), list[str]()

    def work() -> None:
        begun.set()
        gate.wait()
        done.append("work")

    running = asyncio.ensure_future(lane.run(work))
    await asyncio.to_thread(begun.wait)
    waiting = asyncio.ensure_future(lane.run(done.append, "dropped"))
    await asyncio.sleep(0)  # it has been handed in
    lane.close(wait=False)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await running
    assert done == ["work"]
    with pytest.raises(RuntimeError, match="shutdown"):
        await lane.run(len, "")


def test_a_thread_that_hands_out_parts_gets_all_answers_in_their_order() -> None:
    lane, meet = Lane("test", 2), threading.Barrier(2, timeout=300)  # it breaks unless two parts run at once

    def half(part: int) -> float:
        meet.wait()
        return part / 2

    assert lane.map(half, [3, 5]) == [1.5, 2.5]
    lane.close()


def test_a_part_that_fails_is_told_when_the_others_are_done() -> None:
    lane, done = Lane("test", 2), list[int]()

    def work(part: int) -> None:
        if part == 1:
            fail()
        done.append(part)

    with pytest.raises(KeyError, match="inside"):
        lane.map(work, [1, 2, 3])
    assert sorted(done) == [2, 3]
    lane.close()


def test_what_hangs_is_left_behind_and_holds_up_no_end() -> None:
    gate, begun = threading.Event(), threading.Event()
    threads = list[threading.Thread]()

    def hang(patience: float) -> None:
        threads.append(threading.current_thread())
        begun.set()
        gate.wait(patience)

    leave("test", hang, 300.0, patience=0.0)
    assert begun.wait(300)
    assert threads[0].is_alive()
    assert threads[0].daemon
    gate.set()
    threads[0].join(300)
    assert not threads[0].is_alive()


def test_what_does_not_hang_is_waited_for() -> None:
    done = list[int]()
    leave("test", done.append, 1, patience=300.0)
    assert done == [1]
