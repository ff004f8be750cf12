"""Who may build is who moves the claim: by clocks that are each gateway's own, and that the tests turn."""

from __future__ import annotations

import asyncio

import pytest

from gateway.ask.heartbeat import BEAT, STILL, Contender, Heartbeat
from gateway.ask.passage import Claim
from gateway.errors import KnowledgeBaseNotFound, KnowledgeStoreFailed
from tests.ask.memory_store import MemoryStore
from tests.running import DEADLINE

KB = "/papers"


class Machine:
    """A gateway with a clock of its own, over a store that it shares."""

    def __init__(self, store: MemoryStore, now: float) -> None:
        self.store = store
        self.now = now
        self.contender = Contender(lambda: self.now)

    async def claim(self) -> Heartbeat | None:
        return await self.contender.claim(self.store, KB)

    async def had(self) -> Heartbeat:
        beat = await self.claim()
        assert beat is not None
        return beat


class Torn(MemoryStore):
    """Fails while `down`; or does what it is told, and loses the answer."""

    down = False
    silent = False

    async def claim(self, kb: str, before: Claim, holder: str) -> bool:
        if self.down:
            raise KnowledgeStoreFailed("the bucket does not answer")
        done = await super().claim(kb, before, holder)
        if self.silent:
            raise KnowledgeStoreFailed("the connection broke")
        return done


@pytest.fixture
async def two() -> tuple[Machine, Machine]:
    """Of clocks that have nothing to do with each other."""
    store = MemoryStore()
    await store.create("", "papers")
    return Machine(store, 5.0), Machine(MemoryStore(store), 1e9)


def later(seconds: float, *machines: Machine) -> None:
    for machine in machines:
        machine.now += seconds


async def test_a_claim_that_moves_is_never_taken_over(two: tuple[Machine, Machine]) -> None:
    one, other = two
    held = await one.had()
    for _ in range(200):
        later(BEAT, one, other)
        await held.beat()
        assert await other.claim() is None
        assert not held.lost


async def test_a_claim_that_stands_still_is_taken_over_in_seconds_after_it_was_seen_to(
    two: tuple[Machine, Machine],
) -> None:
    one, other = two
    await one.had()  # and is killed
    later(10_000, other)
    assert await other.claim() is None, "how long it has stood before that is not known"
    later(STILL - 0.1, other)
    assert await other.claim() is None
    later(0.1, other)
    assert await other.claim() is not None


async def test_whoever_could_not_move_its_claim_knows_before_anybody_takes_it(two: tuple[Machine, Machine]) -> None:
    one, other = two
    held = await one.had()
    assert await other.claim() is None
    later(STILL, one, other)
    assert held.lost
    taken = await other.had()
    await held.beat()
    assert held.lost
    assert not taken.lost


async def test_one_whose_clock_stood_still_in_its_sleep_finds_out_with_the_next_beat(
    two: tuple[Machine, Machine],
) -> None:
    one, other = two
    held = await one.had()
    assert await other.claim() is None
    later(STILL, other)
    taken = await other.had()
    assert not held.lost
    await held.beat()
    assert held.lost
    await taken.beat()
    assert not taken.lost


async def test_a_claim_that_was_given_back_is_free_at_once(two: tuple[Machine, Machine]) -> None:
    one, other = two
    async with (await one.had()).beating():
        assert await other.claim() is None
    assert await other.claim() is not None


async def test_what_was_lost_is_not_given_back(two: tuple[Machine, Machine]) -> None:
    one, other = two
    async with (await one.had()).beating():
        assert await other.claim() is None
        later(STILL, one, other)
        taken = await other.had()
    await taken.beat()
    assert not taken.lost


async def test_it_beats_by_itself(two: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ask.heartbeat.BEAT", 0.0)
    one, _ = two
    async with (await one.had()).beating(), asyncio.timeout(DEADLINE):
        while (await one.store.claimed(KB)).beat < 5:
            await asyncio.sleep(0)


async def test_a_store_that_fails_for_a_while_loses_no_claim() -> None:
    store = Torn()
    await store.create("", "papers")
    one = Machine(store, 0.0)
    held = await one.had()
    store.down = True
    later(STILL - 0.1, one)
    await held.beat()
    assert not held.lost
    store.down = False
    await held.beat()
    later(STILL - 0.1, one)
    assert not held.lost
    store.down = True
    later(0.1, one)
    await held.beat()
    assert held.lost


async def test_a_beat_whose_answer_was_lost_is_known_as_ones_own() -> None:
    store = Torn()
    await store.create("", "papers")
    one, other = Machine(store, 0.0), Machine(MemoryStore(store), 0.0)
    held = await one.had()
    store.silent = True
    await held.beat()
    store.silent = False
    later(STILL - 0.1, one)
    await held.beat()
    await held.beat()
    assert not held.lost
    later(0.2, one)
    assert not held.lost
    assert await other.claim() is None


async def test_the_claim_of_a_base_that_was_dropped_is_lost(two: tuple[Machine, Machine]) -> None:
    one, other = two
    held = await one.had()
    await one.store.drop(KB)
    await held.beat()
    assert held.lost
    with pytest.raises(KnowledgeBaseNotFound):
        await other.claim()
