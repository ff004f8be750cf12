"""Placement is pure: whatever the devices look like, the answer follows from the rules."""

from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.placement import (
    COLD,
    HOT,
    LOAD_WEIGHT,
    RESTED,
    SHARE,
    Site,
    place,
    soonest,
    spreads,
    surplus,
)

SIZE = 100
LOAD = 0.5  # seconds


def site(index: int, **facts: object) -> Site:
    plain = {"up": True, "holds": False, "free": 1000, "load": 0, "idle_seconds": 0.0}
    return Site(index=index, **{**plain, **facts})  # type: ignore[arg-type]  # a test names only what matters


@st.composite
def sites(draw: st.DrawFn) -> list[Site]:
    facts = st.tuples(
        st.booleans(), st.booleans(), st.integers(-50, 300), st.integers(0, 5), st.floats(0, 9, allow_nan=False)
    )
    drawn = draw(st.lists(facts, min_size=1, max_size=6))
    return [Site(index, *each) for index, each in enumerate(drawn)]


def test_the_device_that_holds_a_generation_keeps_it_however_busy_it_is() -> None:
    assert place([site(0), site(1, holds=True, free=0, load=10_000)], SIZE, LOAD) == 1


def test_of_several_that_hold_it_the_least_busy_is_taken() -> None:
    assert place([site(0, holds=True, load=9), site(1, holds=True, load=3), site(2)], SIZE, LOAD) == 1


def test_with_room_on_several_the_least_busy_is_taken_and_then_the_emptiest() -> None:
    assert place([site(0, load=5), site(1, load=2)], SIZE, LOAD) == 1
    assert place([site(0, free=200), site(1, free=300)], SIZE, LOAD) == 1


def test_a_device_without_room_is_passed_over_and_room_is_enough_to_the_byte() -> None:
    assert place([site(0, free=SIZE - 1, idle_seconds=9.0), site(1, free=SIZE, load=LOAD / 2)], SIZE, LOAD) == 1


def test_with_room_nowhere_the_device_whose_model_was_idle_longest_is_taken() -> None:
    full = [site(0, free=0, idle_seconds=RESTED), site(1, free=0, idle_seconds=9.0), site(2, free=0)]
    assert place(full, SIZE, LOAD) == 1


def test_what_has_to_go_counts_as_a_load_and_what_was_just_used_as_two() -> None:
    """And not more: who has room and a queue of seconds is no better place."""
    rested = site(1, free=0, idle_seconds=RESTED)
    assert place([site(0, load=0.9 * LOAD), rested], SIZE, LOAD) == 0
    assert place([site(0, load=1.1 * LOAD), rested], SIZE, LOAD) == 1
    used = site(1, free=0, idle_seconds=RESTED / 2)
    assert place([site(0, load=1.9 * LOAD), used], SIZE, LOAD) == 0
    assert place([site(0, load=2.1 * LOAD), used], SIZE, LOAD) == 1


def test_a_device_that_is_down_is_taken_only_when_all_are() -> None:
    assert place([site(0, up=False, holds=True), site(1, free=0)], SIZE, LOAD) == 1
    assert place([site(0, up=False), site(1, up=False, holds=True)], SIZE, LOAD) == 1


@given(sites(), st.integers(0, 200))
def test_no_rule_is_ever_broken(drawn: list[Site], size: int) -> None:
    chosen = drawn[place(drawn, size, LOAD)]
    candidates = [each for each in drawn if each.up] or drawn
    assert chosen in candidates
    holders = [each for each in candidates if each.holds]
    roomy = [each for each in candidates if each.free >= size]
    if holders:
        assert chosen.holds
        assert chosen.load == min(each.load for each in holders)
    else:
        assert chosen.load <= min((each.load for each in roomy), default=math.inf)
        assert chosen.load <= min(each.load for each in candidates) + 2 * LOAD


@given(sites(), st.integers(0, 200), st.randoms(use_true_random=False))
def test_the_order_of_the_devices_changes_nothing_but_ties(drawn: list[Site], size: int, source: random.Random) -> None:
    shuffled = list(drawn)
    source.shuffle(shuffled)
    first, second = drawn[place(drawn, size, LOAD)], drawn[place(shuffled, size, LOAD)]
    assert (first.up, first.holds) == (second.up, second.holds)
    if not first.holds and first.free >= size:
        assert (first.load, first.free) == (second.load, second.free)


def test_a_device_where_it_is_loaded_goes_before_one_where_it_is_on_its_way() -> None:
    assert place([site(0, holds=True, load=0), site(1, holds=True, loaded=True, load=9)], SIZE, LOAD) == 1


def busy(index: int, **facts: object) -> Site:
    return site(index, **{"holds": True, "loaded": True, "wait": HOT, "own": 1.0, "load": 500, **facts})


def test_a_generation_whose_texts_wait_everywhere_goes_to_a_device_with_time_and_room() -> None:
    assert spreads([busy(0), site(1, load=3), site(2, load=2)], SIZE, 1) == [2]
    assert spreads([busy(0), site(1, free=SIZE - 1), site(2, load=9)], SIZE, 1) == [2]
    assert spreads([busy(0), site(1, free=40, stale=60)], SIZE, 1) == [1]
    assert spreads([busy(0), site(1, free=40, stale=60), site(2, load=9)], SIZE, 1) == [2]  # evicting nobody is better


def test_several_copies_at_once_go_to_the_best_so_many_and_no_further_than_there_is_room() -> None:
    sites = [busy(0), site(1, load=3), site(2, load=2), site(3, free=0), site(4, load=9)]
    assert spreads(sites, SIZE, 2) == [2, 1]
    assert spreads(sites, SIZE, 9) == [2, 1, 4]
    assert spreads([busy(0, wait=0.0), *sites[1:]], SIZE, 2) == []


def test_it_stays_where_it_is_while_one_that_holds_it_keeps_up() -> None:
    assert spreads([busy(0), busy(1, wait=HOT / 2), site(2)], SIZE, 1) == []
    assert spreads([busy(0), busy(1, loaded=False), site(2)], SIZE, 1) == []
    assert spreads([site(0), site(1)], SIZE, 1) == []


def test_it_is_not_spread_for_the_sake_of_a_neighbour_that_keeps_the_device_busy() -> None:
    assert spreads([busy(0, own=SHARE / 2), site(1)], SIZE, 1) == []


def test_nothing_in_use_makes_room_for_a_replica_and_no_busy_device_takes_one() -> None:
    assert spreads([busy(0), site(1, free=40, stale=59)], SIZE, 1) == []
    assert spreads([busy(0), site(1, wait=COLD * 2)], SIZE, 1) == []
    assert spreads([busy(0), site(1, up=False)], SIZE, 1) == []


def test_a_request_goes_where_it_is_answered_first() -> None:
    assert soonest([busy(0, load=3.0), busy(1, load=2.0)], SIZE, LOAD).index == 1
    coming = site(1, holds=True, load=0.2, left=0.3)
    assert soonest([busy(0, load=0.6), coming], SIZE, LOAD).index == 1
    assert soonest([busy(0, load=0.4), coming], SIZE, LOAD).index == 0
    assert soonest([busy(0, load=0.6), site(1, holds=True, load=0.2)], SIZE, LOAD).index == 0  # nobody knows how long
    assert soonest([busy(0, load=0.8), site(1, holds=True, load=0.2)], SIZE, LOAD).index == 1  # a load, at most
    assert soonest([busy(0, load=9.0), busy(1, load=1.0, up=False)], SIZE, LOAD).index == 0


def test_a_load_is_worth_it_only_where_the_queue_is_that_much_longer() -> None:
    there = site(1, load=0.25)
    assert soonest([busy(0, load=0.25 + LOAD_WEIGHT * LOAD), there], SIZE, LOAD).index == 0
    assert soonest([busy(0, load=0.26 + LOAD_WEIGHT * LOAD), there], SIZE, LOAD).index == 1
    assert soonest([busy(0, load=0.26 + LOAD), there], SIZE, LOAD, weight=1.0).index == 1


def test_what_has_to_go_for_it_counts_as_one_load_more_and_what_was_just_used_stays() -> None:
    full = site(1, free=SIZE - 1, idle_seconds=RESTED)
    assert soonest([busy(0, load=2 * LOAD_WEIGHT * LOAD), full], SIZE, LOAD).index == 0
    assert soonest([busy(0, load=2.1 * LOAD_WEIGHT * LOAD), full], SIZE, LOAD).index == 1
    assert soonest([busy(0, load=99.0), site(1, free=0, idle_seconds=RESTED / 2)], SIZE, LOAD).index == 0


@given(sites(), st.integers(0, 200), st.floats(0.01, 5))
def test_whoever_has_it_is_left_only_for_less_waiting(drawn: list[Site], size: int, load: float) -> None:
    held = [busy(each.index, load=each.load) if each.holds and each.up else each for each in drawn]
    holders = [each for each in held if each.up and each.loaded]
    if not holders:
        return
    chosen, here = soonest(held, size, load), min(each.load for each in holders)
    assert chosen.up
    assert chosen.load <= here
    if not chosen.holds:
        assert chosen.load + LOAD_WEIGHT * load <= here
        assert chosen.free >= size or chosen.idle_seconds >= RESTED


def test_a_replica_is_one_too_many_once_its_texts_wait_nowhere() -> None:
    calm = {"wait": 0.0, "own": 0.0, "load": 0}
    assert surplus([busy(0, **calm), busy(1, **calm, free=10), site(2)]) == 1  # there room is scarcer
    assert surplus([busy(0, wait=COLD, free=10), busy(1, **calm)]) == 1  # there is nothing under way
    assert surplus([busy(0), busy(1, **calm)]) is None
    assert surplus([busy(0, **calm), site(1)]) is None
    assert surplus([busy(0, **calm), busy(1, **calm, up=False)]) is None


@given(sites(), st.integers(0, 200))
def test_what_is_spread_at_once_is_never_surplus_at_once(drawn: list[Site], size: int) -> None:
    hot = [busy(each.index) if each.holds and each.up else each for each in drawn]
    for target in spreads(hot, size, 1):
        after = [each if each.index != target else busy(target, wait=0.0, own=0.0) for each in hot]
        assert surplus(after) is None
