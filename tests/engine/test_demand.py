"""What is asked of each device is counted while it is asked, and how long a thing lasts by the clock that is given."""

from __future__ import annotations

import pytest

from gateway.engine.demand import Demand, Lasting


def test_what_is_asked_counts_for_its_device_until_it_is_answered() -> None:
    demand = Demand()
    with demand.of(0, "a", 0.5):
        with demand.of(0, "b", 1.5), demand.of(1, "a", 3.0):
            assert (demand.load(0), demand.share(0, "a")) == (2.0, 0.25)
            assert (demand.load(1), demand.share(1, "a"), demand.share(1, "b")) == (3.0, 1.0, 0.0)
        assert (demand.load(0), demand.share(0, "a"), demand.load(1)) == (0.5, 1.0, 0.0)
    assert (demand.load(0), demand.share(0, "a")) == (0.0, 0.0)


def test_what_fails_is_asked_of_nobody_any_more() -> None:
    demand = Demand()
    with pytest.raises(ZeroDivisionError), demand.of(0, "a", 1.0):
        raise ZeroDivisionError
    assert demand.load(0) == 0.0


def test_nothing_is_left_of_parts_whose_sum_is_not_exact() -> None:
    demand = Demand()
    with demand.of(0, "a", 0.1), demand.of(0, "a", 0.2), demand.of(0, "b", 0.3):
        pass
    assert (demand.load(0), demand.share(0, "a")) == (0.0, 0.0)
    assert not demand._of


def test_what_lasts_is_measured_from_when_it_began_without_a_break() -> None:
    now = [10.0]
    lasting = Lasting(lambda: now[0])
    assert lasting.seconds("a", True) == 0.0
    now[0] = 12.0
    assert (lasting.seconds("a", True), lasting.seconds("b", True)) == (2.0, 0.0)
    assert lasting.seconds("a", False) == 0.0
    now[0] = 13.0
    assert (lasting.seconds("a", True), lasting.seconds("b", True)) == (0.0, 1.0)
    lasting.keep({"a"})
    assert lasting.seconds("b", True) == 0.0
