"""Fairness, as promised: between any that wait, by weight, with nobody starving, whatever comes and goes."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.host.fair import Fair

MOST = 100  # units of one serving
weights = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=6)
servings = st.lists(st.integers(1, MOST), min_size=1, max_size=200)


@given(weights, servings)
def test_those_that_wait_have_had_the_same_over_their_weights_but_for_one_serving_each(
    weights: list[float], servings: list[int]
) -> None:
    fair: Fair[int] = Fair()
    had = [0.0] * len(weights)
    for key, weight in enumerate(weights):
        fair.enter(key, weight)
    for units in servings:
        key = fair.next()
        assert key is not None
        fair.charge(key, units)
        had[key] += units
    shares = [each / weight for each, weight in zip(had, weights, strict=True)]
    for one, first in enumerate(weights):
        for other, second in enumerate(weights):
            assert abs(shares[one] - shares[other]) <= MOST / first + MOST / second


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_who_stays_has_had_as_much_as_any_that_leave_with_each_serving_and_come_back(seed: int, others: int) -> None:
    chance = random.Random(seed)
    fair: Fair[int] = Fair()
    had = dict.fromkeys(range(others + 1), 0)
    for _ in range(60):
        for key in had:
            if key not in fair:
                fair.enter(key)
        served = fair.next()
        assert served is not None
        units = chance.randint(1, MOST)
        fair.charge(served, units)
        had[served] += units
        if served:  # all but the first
            fair.leave(served)
    assert max(had.values()) - min(had.values()) <= 2 * MOST


def test_one_that_comes_and_goes_gets_no_more_than_one_that_stays() -> None:
    fair: Fair[str] = Fair()
    fair.enter("stays")
    had = {"stays": 0, "comes and goes": 0}
    for _ in range(100):
        if "comes and goes" not in fair:
            fair.enter("comes and goes")
        key = fair.next()
        assert key is not None
        fair.charge(key, 10)
        had[key] += 10
        if key == "comes and goes":
            fair.leave(key)
    assert abs(had["stays"] - had["comes and goes"]) <= 20


def test_who_was_away_has_saved_up_nothing() -> None:
    fair: Fair[str] = Fair()
    fair.enter("early")
    for _ in range(50):
        fair.charge("early", 10)
    fair.enter("late")
    served = []
    for _ in range(20):
        key = fair.next()
        assert key is not None
        fair.charge(key, 10)
        served.append(key)
    assert abs(served.count("early") - served.count("late")) <= 2


def test_of_equals_who_has_waited_longest_is_next() -> None:
    fair: Fair[str] = Fair()
    for name in ("c", "a", "b"):
        fair.enter(name)
    order = []
    while (key := fair.next()) is not None:
        order.append(key)
        fair.leave(key)
    assert order == ["c", "a", "b"]


def test_what_left_is_forgotten_once_the_others_have_caught_up() -> None:
    """So a name costs memory only while it matters."""
    fair: Fair[int] = Fair()
    fair.enter(0)
    for key in range(1, 1000):
        fair.enter(key)
        fair.charge(key, 1)
        fair.leave(key)
        fair.charge(0, 10)
    assert len(fair._tags) < 10
