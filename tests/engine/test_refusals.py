"""Refusals that are made without asking the host: only where its answer is known."""

from __future__ import annotations

import pytest

from gateway.engine.refusals import MOMENT, Refusals
from gateway.errors import Overloaded

FULL = Overloaded("900 tokens wait on the device already", retry_after=2.5, queued=900)
TEXTS = ["a beam", "a ring"]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> Refusals:
    """The host has just refused TEXTS."""
    made = Refusals(clock)
    made.remember("d", TEXTS, FULL)
    return made


def test_the_like_of_what_was_refused_is_refused_in_the_hosts_own_words(refusals: Refusals) -> None:
    for texts in (TEXTS, ["another beam"], ["x" * 1000], ["x"] * 1000):
        with pytest.raises(Overloaded) as refused:
            refusals.check("d", texts)
        assert refused.value is not FULL  # a traceback of its own
        assert refused.value.message == FULL.message
        assert (refused.value.retry_after, refused.value.details) == (2.5, {"queued": 900})


def test_a_smaller_request_may_still_find_room(refusals: Refusals) -> None:
    refusals.check("d", ["a beam", "a rin"])
    refusals.check("d", ["x"])


def test_another_generation_has_a_queue_of_its_own(refusals: Refusals) -> None:
    refusals.check("other", TEXTS)


def test_a_refusal_holds_for_a_moment_and_no_longer(refusals: Refusals, clock: Clock) -> None:
    clock.now += MOMENT * 0.99
    with pytest.raises(Overloaded):
        refusals.check("d", TEXTS)
    clock.now += MOMENT * 0.02
    refusals.check("d", TEXTS)


def test_once_an_answer_has_left_there_may_be_room(refusals: Refusals) -> None:
    refusals.forget()
    refusals.check("d", TEXTS)


def test_the_newest_refusal_counts(refusals: Refusals) -> None:
    refusals.remember("d", ["x"], Overloaded("fuller", retry_after=3.0))
    with pytest.raises(Overloaded, match="fuller"):
        refusals.check("d", ["y"])


def test_token_ids_are_as_large_as_the_texts_that_they_stand_for(clock: Clock) -> None:
    refusals = Refusals(clock)
    refusals.remember("d", [[7] * 10], FULL)
    refusals.check("d", ["x" * 39])
    refusals.check("d", [[7] * 9])
    for inputs in (["x" * 40], [[7] * 5, [7] * 5]):
        with pytest.raises(Overloaded):
            refusals.check("d", inputs)
    refusals.check("d", [])
