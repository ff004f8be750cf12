"""What is evicted may stay in host memory, and comes back from there: bytes, order, and who may throw it out."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import LoadFailed
from gateway.host import memory
from tests.host.test_pool import A, B, C, D, Device, make, until, use

ALL = frozenset(g.digest for g in (A, B, C, D))


async def test_what_is_evicted_comes_back_as_the_same_object_and_is_not_read_again() -> None:
    device = Device(predicted=60)
    pool, told, _ = make(device, host_budget=120)
    async with pool.lease(A) as first:
        pass
    await use(pool, B)
    assert (device.names, device.parked_names) == (["/b"], ["/a"])
    assert told.unloads == [("/a", "evicted")]
    async with pool.lease(A) as again:
        assert again is first
    assert device.loads["/a"] == 1
    assert pool.tier.returned == 1
    assert (device.names, device.parked_names) == (["/a"], ["/b"])


async def test_without_a_budget_nothing_is_parked() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device)
    for wanted in (A, B, A):
        await use(pool, wanted)
    assert device.loads["/a"] == 2
    assert device.parked_peak == 0


async def test_the_one_that_was_parked_longest_ago_makes_room() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=130)
    for wanted in (A, B, C, D):
        await use(pool, wanted)
    assert (device.names, device.parked_names) == (["/d"], ["/b", "/c"])
    assert pool.tier.used == 120
    assert device.parked_peak <= 130


async def test_what_is_wanted_back_is_not_thrown_out_for_what_makes_room_for_it() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=100)
    for wanted in (A, B, A):
        await use(pool, wanted)
    assert device.loads["/a"] == 1
    assert (device.names, device.parked_names) == (["/a"], [])


async def test_what_is_larger_than_host_memory_may_hold_is_closed() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=50)
    await use(pool, A)
    await use(pool, B)
    assert (device.parked_names, pool.tier.used) == ([], 0)


async def test_only_what_was_evicted_is_parked() -> None:
    """An operator who unloads a model wants its memory back, wherever it is; so does one who withdraws it."""
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=1000)
    pool.keep(ALL, frozenset())
    await use(pool, A)
    await pool.unload(A.digest)
    await use(pool, B)
    pool.keep(ALL - {B.digest}, frozenset())
    await until(lambda: not device.names)
    assert device.parked_names == []


async def test_an_operator_unloads_what_is_parked() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=1000)
    await use(pool, A)
    await use(pool, B)
    await pool.unload(A.digest)
    assert (device.parked_names, pool.tier.used) == ([], 0)
    assert device.names == ["/b"]


async def test_what_is_not_live_any_more_leaves_host_memory_too() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=1000)
    for wanted in (A, B, C):
        await use(pool, wanted)
    pool.keep(ALL - {A.digest}, frozenset())
    await until(lambda: device.parked_names == ["/b"])
    assert pool.tier.used == 60


async def test_what_is_withdrawn_while_it_is_parked_does_not_stay() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=1000)
    await use(pool, A)
    device.close_gate = asyncio.Event()
    newcomer = asyncio.create_task(use(pool, B))
    await until(lambda: pool.tier.used == 60)
    pool.keep(ALL - {A.digest}, frozenset())
    device.close_gate.set()
    await newcomer
    await until(lambda: not device.parked)
    assert pool.tier.used == 0


async def test_the_devices_bytes_count_until_it_is_parked() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=1000)
    await use(pool, A)
    device.close_gate = asyncio.Event()
    newcomer = asyncio.create_task(use(pool, B))
    await until(lambda: bool(pool._leaving))
    for _ in range(20):
        await asyncio.sleep(0)
    assert device.loads["/b"] == 0
    assert pool.used == 60
    device.close_gate.set()
    await newcomer
    assert device.peak <= 100


async def test_who_asks_for_what_is_being_parked_gets_it_back_and_not_another_from_the_disk() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=1000)
    await use(pool, A)
    device.close_gate = asyncio.Event()
    newcomer = asyncio.create_task(use(pool, B))
    await until(lambda: pool.tier.used == 60)
    back = asyncio.create_task(use(pool, A))
    await asyncio.sleep(0)
    device.close_gate.set()
    await asyncio.gather(newcomer, back)
    assert device.loads["/a"] == 1


async def test_what_cannot_come_back_is_read_from_the_disk() -> None:
    device = Device(predicted=60)
    pool, told, _ = make(device, host_budget=1000)
    await use(pool, A)
    await use(pool, B)
    device.parking_failures["/a"] = LoadFailed("the bus is out of order")
    await use(pool, A)
    assert device.loads["/a"] == 2
    assert told.failures == []
    assert pool.tier.returned == 0


async def test_what_cannot_be_parked_is_gone_and_in_nobodys_way() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device, host_budget=1000)
    await use(pool, A)
    device.parking_failures["/a"] = LoadFailed("no memory to lock")
    await use(pool, B)
    assert (device.names, device.parked_names, pool.tier.used) == (["/b"], [], 0)


async def test_when_memory_itself_is_full_all_that_is_parked_goes_first() -> None:
    device = Device(predicted=40)
    pool, told, _ = make(device, host_budget=1000)
    for wanted in (A, B, C):
        await use(pool, wanted)
    assert device.parked_names == ["/a"]
    async with pool.lease(C):
        await pool.give_way()
        assert (device.names, device.parked_names, pool.tier.used) == (["/c"], [], 0)
    assert told.unloads[-1] == ("/b", "out_of_memory")


@pytest.mark.parametrize("wanted", [0, 12345])
def test_a_budget_that_an_operator_sets_is_the_budget(wanted: int) -> None:
    assert memory.host_budget("cpu", wanted) == wanted


def test_where_the_device_is_main_memory_nothing_is_parked_unless_an_operator_says_so() -> None:
    assert memory.host_budget("cpu") == 0
