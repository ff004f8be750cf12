"""The pool: bytes, leases, order. The loader here is small and real: it holds what it loaded until it is closed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from gateway.errors import DoesNotFit, GatewayError, LoadFailed
from gateway.host.failures import FIRST_BACKOFF
from gateway.host.pool import Pool
from gateway.host.slot import Slot
from gateway.model import Generation, Manifest

MANIFEST = Manifest(
    kind="encoder",
    library="transformers",
    model_type="bert",
    architecture="BertModel",
    dim=1,
    max_tokens=1,
    vocab_size=1,
    transformer_path="",
    tokenizer_path="",
    stages=(),
    weights=(),
    files=(),
    parameters=0,
    stored_bytes=0,
    stored_dtype="F32",
)


def generation(name: str) -> Generation:
    return Generation(name * (64 // len(name)), f"/{name}", MANIFEST)


A, B, C, D = (generation(name) for name in "abcd")


class Memory:
    """A runtime: bytes that somebody holds."""

    def __init__(self, owner: Generation, size: int) -> None:
        self.owner = owner
        self.bytes = size
        self.closed = False
        self.users = 0


class Device:
    """A loader of a device with a size of its own: it refuses to hold more than it has, as a real one would."""

    def __init__(self, size: int = 100, predicted: int = 40) -> None:
        self.size = size
        self.predicted: dict[str, int] = {}
        self.usual = predicted
        self.measured: dict[str, int] = {}
        self.held: list[Memory] = []
        self.loads: Counter[str] = Counter()
        self.gates: dict[str, asyncio.Event] = {}
        self.close_gate: asyncio.Event | None = None
        self.failures: dict[str, GatewayError] = {}
        self.peak = 0
        self.parked: list[Memory] = []
        self.parked_peak = 0
        self.parking_failures: dict[str, GatewayError] = {}

    def predict(self, generation: Generation) -> int:
        return self.predicted.get(generation.path, self.usual)

    async def load(self, generation: Generation) -> Memory:
        self.loads[generation.path] += 1
        if gate := self.gates.get(generation.path):
            await gate.wait()
        else:
            await asyncio.sleep(0)
        if error := self.failures.get(generation.path):
            raise error
        memory = Memory(generation, self.measured.get(generation.path, self.predict(generation)))
        self.held.append(memory)
        self.peak = max(self.peak, sum(memory.bytes for memory in self.held))
        return memory

    async def close(self, runtime: object) -> None:
        assert isinstance(runtime, Memory)
        assert not runtime.users, "closed under a lease"
        assert not runtime.closed, "closed twice"
        if self.close_gate:
            await self.close_gate.wait()
        runtime.closed = True
        (self.held if runtime in self.held else self.parked).remove(runtime)

    async def park(self, runtime: object) -> None:
        assert isinstance(runtime, Memory)
        assert not runtime.users, "parked under a lease"
        assert runtime in self.held, "it is on the device"
        if self.close_gate:
            await self.close_gate.wait()
        if error := self.parking_failures.get(runtime.owner.path):
            runtime.closed = True
            self.held.remove(runtime)
            raise error
        self.held.remove(runtime)
        self.parked.append(runtime)
        self.parked_peak = max(self.parked_peak, sum(memory.bytes for memory in self.parked))

    async def unpark(self, runtime: object) -> None:
        assert isinstance(runtime, Memory)
        self.parked.remove(runtime)
        await asyncio.sleep(0)
        if error := self.parking_failures.get(runtime.owner.path):
            runtime.closed = True
            raise error
        self.held.append(runtime)
        self.peak = max(self.peak, sum(memory.bytes for memory in self.held))

    @property
    def names(self) -> list[str]:
        return sorted(memory.owner.path for memory in self.held)

    @property
    def parked_names(self) -> list[str]:
        return sorted(memory.owner.path for memory in self.parked)


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.unloads: list[tuple[str, str]] = []
        self.failures: list[str] = []

    def loaded(self, slot: Slot, seconds: float) -> None: ...

    def unloaded(self, slot: Slot, idle_seconds: float) -> None:
        self.unloads.append((slot.generation.path, slot.why))

    def failed(self, slot: Slot, error: GatewayError) -> None:
        self.failures.append(error.code)

    def changed(self) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def make(device: Device, budget: int = 100, limit: int = 0, host_budget: int = 0) -> tuple[Pool, Told, Clock]:
    told, clock = Told(), Clock()
    return Pool(device, told, budget, limit, clock, host_budget=host_budget), told, clock


async def use(pool: Pool, wanted: Generation) -> None:
    async with pool.lease(wanted) as runtime:
        assert isinstance(runtime, Memory)
        assert runtime.owner == wanted
        assert not runtime.closed


async def until(condition: Callable[[], bool]) -> None:
    """Lets tasks run until it is so; a hang is an error, not a wait."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never became so")


async def test_the_least_recently_used_idle_generation_goes_first() -> None:
    """Two of 40 bytes fit into 100; the third takes the place of the one that was used longest ago."""
    device = Device()
    pool, told, _ = make(device)
    await use(pool, A)
    await use(pool, B)
    await use(pool, A)
    await use(pool, C)
    assert device.names == ["/a", "/c"]
    assert told.unloads == [("/b", "evicted")]


async def test_a_loaded_generation_is_not_loaded_again() -> None:
    device = Device()
    pool, _, _ = make(device)
    for _ in range(5):
        await use(pool, A)
    assert device.loads["/a"] == 1


async def test_however_many_wait_there_is_one_load() -> None:
    device = Device()
    device.gates["/a"] = asyncio.Event()
    pool, _, _ = make(device)
    waiting = [asyncio.create_task(use(pool, A)) for _ in range(20)]
    await until(lambda: device.loads["/a"] == 1)
    device.gates["/a"].set()
    await asyncio.gather(*waiting)
    assert device.loads["/a"] == 1


async def test_a_leased_generation_is_never_closed() -> None:
    """It is retired: the newcomer waits for the lease to end, and the lease stays good until then."""
    device = Device(predicted=60)
    pool, _, _ = make(device)
    async with pool.lease(A) as held:
        assert isinstance(held, Memory)
        newcomer = asyncio.create_task(use(pool, B))
        await until(lambda: bool(pool._leaving))
        assert not held.closed
        assert device.loads["/b"] == 0
    await newcomer
    assert held.closed
    assert device.names == ["/b"]


async def test_two_busy_generations_do_not_starve_a_third() -> None:
    """With all busy, the one whose last use began longest ago is retired; its own clients wait in turn."""
    device = Device()
    pool, told, _ = make(device)
    stop = False
    served: Counter[str] = Counter()

    async def hammer(wanted: Generation) -> None:
        while not stop:
            async with pool.lease(wanted):
                served[wanted.path] += 1
                await asyncio.sleep(0)

    hammers = [asyncio.create_task(hammer(g)) for g in (A, A, B, B)]
    await until(lambda: served["/a"] > 3 and served["/b"] > 3)
    await asyncio.wait_for(use(pool, C), 300)
    before = served.copy()
    await until(lambda: served["/a"] > before["/a"] and served["/b"] > before["/b"])
    stop = True
    await asyncio.gather(*hammers)
    assert device.peak <= 100
    assert ("/a", "evicted") in told.unloads or ("/b", "evicted") in told.unloads


async def test_bytes_count_until_close_has_returned() -> None:
    """Another load must not see room that does not exist yet."""
    device = Device(predicted=60)
    pool, _, _ = make(device)
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


async def test_measured_bytes_replace_predicted_ones() -> None:
    device = Device()
    device.measured["/a"] = 25
    pool, _, _ = make(device)
    await use(pool, A)
    assert pool.used == 25


async def test_a_prediction_that_fell_short_is_paid_at_once() -> None:
    device = Device(size=1000)
    pool, _, _ = make(device)
    await use(pool, A)
    device.measured["/b"] = 80
    await use(pool, B)
    await until(lambda: device.names == ["/b"])
    assert pool.used == 80


async def test_what_is_larger_than_the_budget_is_refused_and_evicts_nobody() -> None:
    device = Device()
    pool, _, _ = make(device)
    await use(pool, A)
    device.predicted["/b"] = 101
    with pytest.raises(DoesNotFit) as refused:
        await use(pool, B)
    assert refused.value.details == {"bytes": 101, "budget": 100}
    assert device.names == ["/a"]


async def test_a_pinned_generation_is_never_evicted() -> None:
    device = Device()
    pool, _, _ = make(device)
    everything = frozenset(g.digest for g in (A, B, C, D))
    pool.keep(everything, frozenset({A.digest}))
    for wanted in (A, B, C, D, B, C):
        await use(pool, wanted)
    assert "/a" in device.names
    assert device.loads["/a"] == 1


async def test_beside_what_is_pinned_only_the_rest_of_the_budget_counts() -> None:
    device = Device()
    pool, _, _ = make(device)
    pool.keep(frozenset({A.digest, B.digest}), frozenset({A.digest}))
    await use(pool, A)
    device.predicted["/b"] = 61
    with pytest.raises(DoesNotFit, match="beside what is pinned"):
        await use(pool, B)


async def test_a_load_that_waits_while_all_else_gets_pinned_is_refused_rather_than_left_waiting() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device)
    live = frozenset({A.digest, B.digest})
    device.gates["/a"] = asyncio.Event()
    first = asyncio.create_task(use(pool, A))
    await until(lambda: device.loads["/a"] == 1)
    second = asyncio.create_task(use(pool, B))
    await asyncio.sleep(0)
    pool.keep(live, frozenset({A.digest}))
    with pytest.raises(DoesNotFit, match="beside what is pinned"):
        await second
    device.gates["/a"].set()
    await first


async def test_a_pinned_generation_waits_for_room_like_any_other() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device)
    pool.keep(frozenset({A.digest, B.digest}), frozenset({B.digest}))
    async with pool.lease(A):
        waiting = asyncio.create_task(use(pool, B))
        await until(lambda: bool(pool._leaving))
    await waiting
    assert device.names == ["/b"]


async def test_unpinning_lets_it_be_evicted_again() -> None:
    device = Device()
    pool, _, _ = make(device)
    everything = frozenset(g.digest for g in (A, B, C))
    pool.keep(everything, frozenset({A.digest}))
    await use(pool, A)
    pool.keep(everything, frozenset())
    await use(pool, B)
    await use(pool, C)
    assert device.names == ["/b", "/c"]


async def test_who_waits_for_room_for_what_is_withdrawn_is_answered_still_and_then_it_goes() -> None:
    """A swap while somebody waits for the old content: that one asked before."""
    device = Device()
    pool, told, _ = make(device, budget=40)
    device.gates["/a"] = asyncio.Event()
    first, second = (asyncio.create_task(use(pool, wanted)) for wanted in (A, B))
    await asyncio.sleep(0)
    pool.keep(frozenset({A.digest, C.digest}), frozenset())
    device.gates["/a"].set()
    await asyncio.gather(first, second)
    await until(lambda: ("/b", "retired") in told.unloads)
    assert device.peak <= 40


async def test_what_is_withdrawn_and_nobody_waits_for_is_not_loaded_any_more() -> None:
    device = Device()
    pool, _, _ = make(device, budget=40)
    device.gates["/a"] = asyncio.Event()
    first, second = (asyncio.create_task(use(pool, wanted)) for wanted in (A, B))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    pool.keep(frozenset({A.digest}), frozenset())
    device.gates["/a"].set()
    await first
    assert not device.loads["/b"]


async def test_what_is_not_live_any_more_is_retired_after_its_last_lease() -> None:
    device = Device()
    pool, told, _ = make(device)
    async with pool.lease(A) as held:
        assert isinstance(held, Memory)
        pool.keep(frozenset({B.digest}), frozenset())
        await asyncio.sleep(0)
        assert not held.closed
    await until(lambda: not device.names)
    assert told.unloads == [("/a", "retired")]


async def test_a_cancelled_waiter_ends_only_its_own_waiting() -> None:
    device = Device()
    device.gates["/a"] = asyncio.Event()
    pool, _, _ = make(device)
    leaving, staying = (asyncio.create_task(use(pool, A)) for _ in range(2))
    await until(lambda: device.loads["/a"] == 1)
    leaving.cancel()
    await asyncio.sleep(0)
    device.gates["/a"].set()
    await staying
    assert leaving.cancelled()
    assert device.loads["/a"] == 1


async def test_a_load_that_began_is_finished_though_nobody_waits_and_can_be_evicted() -> None:
    device = Device()
    device.gates["/a"] = asyncio.Event()
    pool, _, _ = make(device)
    leaving = asyncio.create_task(use(pool, A))
    await until(lambda: device.loads["/a"] == 1)
    leaving.cancel()
    device.gates["/a"].set()
    await until(lambda: device.names == ["/a"])
    await use(pool, B)
    await use(pool, C)
    assert device.names == ["/b", "/c"]


async def test_a_load_that_waits_for_room_is_dropped_when_nobody_wants_it() -> None:
    device = Device(predicted=60)
    pool, _, _ = make(device)
    async with pool.lease(A):
        leaving = asyncio.create_task(use(pool, B))
        await until(lambda: bool(pool._leaving))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    await until(lambda: not pool.slots())
    assert device.loads["/b"] == 0


async def test_a_failed_load_is_remembered_with_a_growing_backoff() -> None:
    device = Device()
    device.failures["/a"] = LoadFailed("no")
    pool, told, clock = make(device)
    waits = []
    for _ in range(3):
        with pytest.raises(LoadFailed):
            await use(pool, A)
        with pytest.raises(LoadFailed) as again:  # answered from memory
            await use(pool, A)
        assert again.value.retry_after is not None
        waits.append(again.value.retry_after)
        clock.now += waits[-1] + 1
    assert device.loads["/a"] == 3
    assert waits[0] == pytest.approx(FIRST_BACKOFF, abs=0.1)
    assert waits[2] == pytest.approx(4 * FIRST_BACKOFF, abs=0.1)
    assert told.failures == ["load_failed"] * 3
    assert pool.used == 0


async def test_an_operators_load_does_not_wait_for_the_backoff() -> None:
    device = Device()
    device.failures["/a"] = LoadFailed("no")
    pool, _, _ = make(device)
    with pytest.raises(LoadFailed):
        await use(pool, A)
    del device.failures["/a"]
    await pool.load(A)
    assert device.names == ["/a"]


async def test_a_failed_load_leaks_nothing_and_the_others_go_on() -> None:
    device = Device()
    device.failures["/a"] = LoadFailed("no")
    device.gates["/a"] = asyncio.Event()
    pool, _, _ = make(device)
    failing = [asyncio.create_task(use(pool, A)) for _ in range(3)]
    await until(lambda: device.loads["/a"] == 1)
    device.gates["/a"].set()
    results = await asyncio.gather(*failing, return_exceptions=True)
    assert [type(result) for result in results] == [LoadFailed] * 3
    await use(pool, B)
    assert pool.used == 40


async def test_a_bug_in_a_load_is_that_models_failure() -> None:
    class Broken(Device):
        async def load(self, generation: Generation) -> Memory:
            raise KeyError("embeddings.weight")

    pool, _, _ = make(Broken())
    with pytest.raises(LoadFailed, match=r"KeyError.*embeddings.weight"):
        await use(pool, A)


async def test_a_panic_in_a_load_is_that_models_failure_and_leaves_nothing() -> None:
    class PanicException(BaseException):
        """As of a library in Rust: no Exception."""

    class Broken(Device):
        async def load(self, generation: Generation) -> Memory:
            raise PanicException("index out of bounds")

    pool, told, _ = make(Broken())
    using = asyncio.create_task(use(pool, A))
    await until(using.done)
    with pytest.raises(LoadFailed, match="index out of bounds"):
        using.result()
    assert (pool.used, pool.slots(), told.failures) == (0, [], ["load_failed"])


async def test_unloading_what_is_leased_waits_for_the_lease() -> None:
    device = Device()
    pool, told, _ = make(device)
    async with pool.lease(A):
        unloading = [asyncio.create_task(pool.unload(A.digest)) for _ in range(2)]
        await until(lambda: bool(pool._leaving))
        assert device.names == ["/a"]
        assert not any(task.done() for task in unloading)
    await asyncio.gather(*unloading)
    assert device.names == []
    assert told.unloads == [("/a", "requested")]
    await pool.unload(A.digest)  # once more is as good as once


async def test_a_generation_that_leaves_can_be_asked_for_again() -> None:
    """It is loaded anew, beside the one that is still leased, and each closes by itself."""
    device = Device()
    pool, _, _ = make(device)
    async with pool.lease(A) as first:
        leaving = asyncio.create_task(pool.unload(A.digest))
        await until(lambda: bool(pool._leaving))
        async with pool.lease(A) as second:
            assert first is not second
    await leaving
    await until(lambda: len(device.held) == 1)
    assert device.held[0] is second


async def test_what_a_lease_waits_for_gets_the_generation_of_that_lease_though_it_is_retired() -> None:
    device = Device()
    pool, _, _ = make(device, limit=1)
    async with pool.lease(A) as held:
        wanted = asyncio.create_task(use(pool, B))
        await until(lambda: bool(pool._leaving))
        again = asyncio.create_task(use(pool, A))
        await until(lambda: len(pool._waiting) == 2)
        async with pool.lease(A, join=True) as joined:
            assert joined is held
        assert device.names == ["/a"]
    await asyncio.gather(wanted, again)
    assert device.loads == {"/a": 2, "/b": 1}
    async with pool.lease(C, join=True) as loaded:  # nothing to join
        assert device.held == [loaded]


async def test_a_retired_generation_lasts_as_long_as_who_joined_its_lease() -> None:
    device = Device()
    pool, told, _ = make(device)
    stack = AsyncExitStack()
    async with stack:
        async with pool.lease(A) as held:
            unloading = asyncio.create_task(pool.unload(A.digest))
            await until(lambda: bool(pool._leaving))
            assert await stack.enter_async_context(pool.lease(A, join=True)) is held
        assert device.names == ["/a"]
        assert not unloading.done()
    await unloading
    assert told.unloads == [("/a", "requested")]
    assert device.held == []


async def test_the_count_limit_holds_beside_the_bytes() -> None:
    device = Device(predicted=1)
    pool, _, _ = make(device, limit=2)
    for wanted in (A, B, C, D):
        await use(pool, wanted)
        assert len(device.held) <= 2
    assert device.names == ["/c", "/d"]


async def test_idle_generations_go_when_the_device_says_it_is_full() -> None:
    device = Device()
    pool, _, _ = make(device)
    await use(pool, A)
    async with pool.lease(B):
        await pool.give_way()
        assert device.names == ["/b"]


async def test_closing_the_pool_closes_everything() -> None:
    device = Device()
    pool, _, _ = make(device)
    await use(pool, A)
    await use(pool, B)
    await pool.close()
    assert not device.held
    assert pool.used == 0


async def test_what_is_left_of_a_load_is_judged_by_those_before() -> None:
    device = Device(predicted=40)
    pool, _, clock = make(device)
    device.gates["/a"] = asyncio.Event()
    first = asyncio.create_task(pool.load(A))
    await until(lambda: device.loads["/a"] == 1)
    clock.now += 8
    device.gates["/a"].set()
    await first
    assert pool.seconds_left(A.digest) == 0
    device.gates["/b"] = asyncio.Event()
    second = asyncio.create_task(pool.load(B))
    await until(lambda: device.loads["/b"] == 1)
    assert pool.seconds_left(B.digest) == pytest.approx(8, abs=0.1)  # as many bytes
    clock.now += 6
    assert pool.seconds_left(B.digest) == pytest.approx(2, abs=0.1)
    clock.now += 60
    assert 0 < pool.seconds_left(B.digest) < 1  # it takes longer than was thought, and is not there yet
    device.gates["/b"].set()
    await second
    await pool.unload(A.digest)
    assert pool.seconds_left(A.digest) == 0  # nobody has asked for it


@pytest.mark.parametrize("host_budget", [0, 70])
@pytest.mark.parametrize("seed", range(8))
async def test_a_random_life_never_exceeds_the_budget_and_ends_with_nothing_lost(seed: int, host_budget: int) -> None:
    """Clients come, hold, leave and are cancelled; loads fail; pins and liveness change. The device itself checks
    that nothing is closed under a lease, and its peak that the budget held at every moment."""
    chance = random.Random(seed)
    device = Device()
    generations = [generation(name) for name in "abcdefgh"]
    for g in generations:
        device.predicted[g.path] = chance.randint(10, 50)
        device.measured[g.path] = device.predicted[g.path] - chance.randint(0, 5)
    pool, _, clock = make(device, host_budget=host_budget)
    finished: Counter[str] = Counter()

    async def client() -> None:
        for _ in range(12):
            wanted = chance.choice(generations)
            try:
                async with asyncio.timeout(None if chance.random() < 0.8 else 0.0005), pool.lease(wanted) as runtime:
                    assert isinstance(runtime, Memory)
                    runtime.users += 1
                    try:
                        for _ in range(chance.randint(0, 5)):
                            await asyncio.sleep(0)
                            assert not runtime.closed
                    finally:
                        runtime.users -= 1
                finished["served"] += 1
            except (LoadFailed, DoesNotFit, TimeoutError) as error:
                finished[type(error).__name__] += 1

    async def operator() -> None:
        for _ in range(30):
            await asyncio.sleep(0)
            clock.now += chance.random() * 5
            live = frozenset(g.digest for g in generations if chance.random() < 0.9)
            pool.keep(live, frozenset(digest for digest in list(live)[:1] if chance.random() < 0.2))
            wanted = chance.choice(generations).path
            if chance.random() < 0.3:
                device.failures[wanted] = LoadFailed("now and then")
            else:
                device.failures.pop(wanted, None)
            if chance.random() < 0.2:
                device.parking_failures[wanted] = LoadFailed("the bus is out of order")
            else:
                device.parking_failures.pop(wanted, None)

    await asyncio.wait_for(asyncio.gather(*(client() for _ in range(10)), operator()), 300)
    assert device.peak <= 100
    assert device.parked_peak <= host_budget
    assert finished["served"] > 20
    await pool.close()
    assert not device.held
    assert not device.parked
    assert pool.tier.used == 0
    assert pool.used == 0
    assert not pool._waiting
