"""Placement is pure: whatever the devices look like, the answer follows from the rules."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.engine.placement import Site, place

SIZE = 100


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
    assert place([site(0), site(1, holds=True, free=0, load=10_000)], SIZE) == 1


def test_of_several_that_hold_it_the_least_busy_is_taken() -> None:
    assert place([site(0, holds=True, load=9), site(1, holds=True, load=3), site(2)], SIZE) == 1


def test_with_room_on_several_the_least_busy_is_taken_and_then_the_emptiest() -> None:
    assert place([site(0, load=5), site(1, load=2)], SIZE) == 1
    assert place([site(0, free=200), site(1, free=300)], SIZE) == 1


def test_a_device_without_room_is_passed_over_and_room_is_enough_to_the_byte() -> None:
    assert place([site(0, free=SIZE - 1), site(1, free=SIZE, load=100)], SIZE) == 1


def test_with_room_nowhere_the_device_whose_model_was_idle_longest_is_taken() -> None:
    assert place([site(0, free=0, idle_seconds=1.0), site(1, free=0, idle_seconds=9.0)], SIZE) == 1


def test_a_device_that_is_down_is_taken_only_when_all_are() -> None:
    assert place([site(0, up=False, holds=True), site(1, free=0)], SIZE) == 1
    assert place([site(0, up=False), site(1, up=False, holds=True)], SIZE) == 1


@given(sites(), st.integers(0, 200))
def test_no_rule_is_ever_broken(drawn: list[Site], size: int) -> None:
    chosen = drawn[place(drawn, size)]
    candidates = [each for each in drawn if each.up] or drawn
    assert chosen in candidates
    holders = [each for each in candidates if each.holds]
    roomy = [each for each in candidates if each.free >= size]
    if holders:
        assert chosen.holds
        assert chosen.load == min(each.load for each in holders)
    elif roomy:
        assert chosen.free >= size
        assert chosen.load == min(each.load for each in roomy)
    else:
        assert chosen.idle_seconds == max(each.idle_seconds for each in candidates)


@given(sites(), st.integers(0, 200), st.randoms(use_true_random=False))
def test_the_order_of_the_devices_changes_nothing_but_ties(drawn: list[Site], size: int, source: random.Random) -> None:
    shuffled = list(drawn)
    source.shuffle(shuffled)
    first, second = drawn[place(drawn, size)], drawn[place(shuffled, size)]
    assert (first.up, first.holds) == (second.up, second.holds)
    if not first.holds and first.free >= size:
        assert (first.load, first.free) == (second.load, second.free)
