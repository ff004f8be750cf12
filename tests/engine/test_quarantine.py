"""Two deaths convict, if the second one can be the generation's fault."""

from __future__ import annotations

from gateway.engine.quarantine import FIRST, LAST, Quarantine


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_second_death_convicts_and_each_term_is_twice_as_long() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    for length in (FIRST, 2 * FIRST, 4 * FIRST):
        assert quarantine.strike("a", sole=True, since=0.1) is None
        clock.now += 1
        assert quarantine.strike("a", sole=True, since=0.1) == length
        assert quarantine.left("a") == length
        clock.now += length
        assert quarantine.left("a") is None
    for _ in range(20):
        quarantine.strike("a", sole=True, since=0.0)
        clock.now += 1
    assert (quarantine.left("a") or 0.0) <= LAST


def test_whoever_survived_a_call_has_not_struck() -> None:
    quarantine = Quarantine(Clock())
    assert quarantine.strike("a", sole=True, since=0.0) is None
    quarantine.survived("a")
    assert quarantine.strike("a", sole=True, since=0.0) is None


def test_beside_others_nobody_is_convicted_and_the_strike_counts() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    for _ in range(2):
        assert quarantine.strike("a", sole=False, since=0.1) is None
        clock.now += 1
    assert quarantine.strike("a", sole=True, since=0.1) == FIRST


def test_hosts_that_die_together_die_of_something_else() -> None:
    """Two devices with copies of one busy model, when the driver is reset."""
    clock = Clock()
    quarantine = Quarantine(clock)
    assert quarantine.strike("a", sole=True, since=0.5) is None
    clock.now += 0.02
    assert quarantine.strike("a", sole=True, since=0.4) is None
    assert quarantine.strike("a", sole=True, since=9.0) is None
    clock.now += 0.02
    assert quarantine.strike("a", sole=True, since=0.01) == FIRST, "what was sent again killed the next one"


def test_a_death_that_is_heard_of_late_counts_from_when_it_was() -> None:
    """From a cluster both are heard of in the same moment."""
    quarantine = Quarantine(Clock())
    assert quarantine.strike("a", sole=True, since=1.0, ago=0.4) is None
    assert quarantine.strike("a", sole=True, since=0.1, ago=0.1) == FIRST
    assert quarantine.strike("b", sole=True, since=1.0, ago=0.4) is None
    assert quarantine.strike("b", sole=True, since=0.1, ago=0.35) is None
