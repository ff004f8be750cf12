"""How long a load will take is judged by the loads before."""

from __future__ import annotations

import pytest

from gateway.host.pace import FIRST_RATE, LEAST, RECENT, Pace


def test_before_anything_was_loaded_a_disk_is_thought_of() -> None:
    assert Pace().seconds("a", int(10 * FIRST_RATE)) == 10


def test_a_generation_that_was_loaded_before_takes_as_long_again() -> None:
    pace = Pace()
    pace.loaded("a", 1000, 7.0)
    pace.loaded("b", 1000, 1.0)
    assert pace.seconds("a", 1000) == 7.0


def test_another_takes_as_long_as_its_bytes_did_in_the_median_of_those_before() -> None:
    pace = Pace()
    for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 60.0)):
        pace.loaded(name, 10**9, seconds)
    assert pace.seconds("d", 3 * 10**9) == pytest.approx(6.0)


def test_what_is_long_ago_does_not_count() -> None:
    pace = Pace()
    for number in range(RECENT):
        pace.loaded(f"slow {number}", 10**9, 100.0)
    for number in range(RECENT):
        pace.loaded(f"fast {number}", 10**9, 1.0)
    assert pace.seconds("d", 10**9) == pytest.approx(1.0)


def test_however_small_a_load_takes_some_time() -> None:
    pace = Pace()
    pace.loaded("a", 0, 0.0)
    assert pace.seconds("b", 0) == LEAST
