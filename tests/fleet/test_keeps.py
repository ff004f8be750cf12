"""What several gateways want kept, and for how long they are believed."""

from __future__ import annotations

import pytest

from gateway.cluster.keeps import EXPIRES, Keeps, Kept


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def kept(live: str, pinned: str = "") -> Kept:
    return Kept(frozenset(live), frozenset(pinned))


def test_all_may_stay_until_somebody_says_what(clock: Clock) -> None:
    keeps = Keeps(clock)
    keeps.use("a")
    assert keeps.union() is None
    keeps.keep("one", 1, "b", "")
    assert keeps.union() == kept("ab")


def test_a_gateway_that_knows_less_takes_nothing_away(clock: Clock) -> None:
    keeps = Keeps(clock)
    keeps.keep("one", 1, "abc", "a")
    keeps.keep("two", 1, "c", "c")
    assert keeps.union() == kept("abc", "ac")
    keeps.keep("one", 2, "b", "")
    assert keeps.union() == kept("bc", "c")


def test_an_older_word_that_comes_late_changes_nothing(clock: Clock) -> None:
    keeps = Keeps(clock)
    keeps.keep("one", 2, "b", "")
    keeps.keep("one", 1, "a", "")
    assert keeps.union() == kept("b")
    assert keeps.version("one") == 2
    assert keeps.version("two") == -1


def test_who_is_not_heard_of_wants_nothing_after_a_while(clock: Clock) -> None:
    keeps = Keeps(clock)
    keeps.keep("one", 1, "a", "a")
    keeps.keep("two", 1, "b", "")
    clock.now = EXPIRES - 1
    assert keeps.renew("two") == 1
    clock.now = EXPIRES
    assert keeps.union() == kept("b")
    assert keeps.renew("one") == -1, "it has to say it again"


def test_what_was_asked_for_stays_whether_somebody_has_named_it_or_not(clock: Clock) -> None:
    keeps = Keeps(clock)
    keeps.keep("one", 1, "a", "")
    keeps.use("new")
    assert keeps.union() == Kept(frozenset({"a", "new"}), frozenset())
    clock.now = EXPIRES
    keeps.keep("one", 2, "a", "")
    assert keeps.union() == kept("a")
