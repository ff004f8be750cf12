"""Which replica a request goes to: the rules one by one, and what many choices come to."""

from __future__ import annotations

from collections import Counter

from gateway.engine.placement import HOT, LOAD_WEIGHT, RESTED, Site
from gateway.engine.routing import REMEMBERED, Choices, Told, route

NAMES = ["one", "two", "three"]
IDLE = [0.0, 0.0, 0.0]
LOAD = 0.5  # seconds


def site(
    index: int, *, up: bool = True, holds: bool = False, loaded: bool = False, free: int = 0, load: int = 0
) -> Site:
    return Site(index, up, holds or loaded, free, load, 0.0, loaded)


def test_the_most_room_where_nobody_has_it() -> None:
    assert route([site(0, free=5), site(1, free=30), site(2, free=9)], NAMES, "d", 4) == 1
    assert route([site(0, free=5), site(1, free=3), site(2, free=3)], NAMES, "d", 4) == 0


def test_without_room_a_hash_says_it_and_passes_by_whoever_has_much_to_do() -> None:
    chosen = {digest: route([site(i) for i in range(3)], NAMES, digest, 4) for digest in map(str, range(300))}
    assert all(80 < count < 120 for count in Counter(chosen.values()).values())
    for digest, index in chosen.items():
        busy = [site(i, load=1000 if i == index else 10) for i in range(3)]
        assert route(busy, NAMES, digest, 4) != index


def test_a_replica_that_goes_moves_only_its_own() -> None:
    for digest in map(str, range(300)):
        before = route([site(i) for i in range(3)], NAMES, digest, 4)
        after = route([site(0), site(1), site(2, up=False)], NAMES, digest, 4)
        assert before in (after, 2)


def test_only_where_all_are_down_one_that_is_down() -> None:
    assert route([site(0, up=False, free=9), site(1), site(2, up=False)], NAMES, "d", 1) == 1
    assert route([site(0, up=False), site(1, up=False, free=9), site(2, up=False)], NAMES, "d", 1) == 1


def test_choices_cover_what_has_not_been_told_yet() -> None:
    clock = [0.0]
    choices = Choices(lambda: clock[0])
    told = [Told(name, free=100) for name in NAMES]  # and none of them ever says more
    chosen = {digest: choices.choose(told, IDLE, digest, 25, LOAD) for digest in "abcdefghijkl"}
    assert Counter(chosen.values()) == {0: 4, 1: 4, 2: 4}
    assert {digest: choices.choose(told, IDLE, digest, 25, LOAD) for digest in chosen} == chosen
    clock[0] = REMEMBERED
    full = [Told(name, free=0) for name in NAMES]
    hashed = {digest: choices.choose(full, IDLE, digest, 25, LOAD) for digest in chosen}
    assert hashed == {digest: route([site(i) for i in range(3)], NAMES, digest, 25) for digest in chosen}


def test_what_was_told_counts_once() -> None:
    choices = Choices(lambda: 0.0)
    assert choices.choose([Told("one", free=100)], [0.0], "a", 60, LOAD) == 0
    held = Told("one", held=frozenset("a"), loaded=frozenset("a"), free=40)
    two = Told("two", free=30)
    assert choices.choose([held, two], [0.0, 0.0], "b", 35, LOAD) == 0  # 40 are free, not 40 less another 60


def test_a_choice_for_a_replica_that_went_is_forgotten() -> None:
    choices = Choices(lambda: 0.0)
    assert choices.choose([Told("one", free=9), Told("two", free=1)], [0.0, 0.0], "a", 1, LOAD) == 0
    assert choices.choose([Told("two", free=1), Told("three", free=5)], [0.0, 0.0], "a", 1, LOAD) == 1


def has(name: str, **facts: object) -> Told:
    return Told(name, held=frozenset("a"), loaded=frozenset("a"), **facts)  # type: ignore[arg-type]  # a test's own


def test_of_several_that_have_it_the_one_with_least_to_do_and_of_equals_always_the_same() -> None:
    told = [has("one"), has("two"), Told("three", held=frozenset("a"))]
    assert Choices().choose(told, [9.0, 8.0, 8.5], "a", 1, LOAD) == 1
    assert Choices().choose(told, [9.0, 8.0, 7.0], "a", 1, LOAD) == 2, "a load is waited for"
    both = Choices().choose([has("one"), has("two")], IDLE[:2], "a", 1, LOAD)
    turned = Choices().choose([has("two"), has("one")], IDLE[:2], "a", 1, LOAD)
    assert {both, turned} == {0, 1}


def test_who_is_down_is_asked_only_where_nobody_else_is() -> None:
    assert Choices().choose([has("one", up=False), Told("two", free=9)], [0.0, 9.0], "a", 1, LOAD) == 1
    assert Choices().choose([has("one", up=False), has("two", up=False)], [0.0, 9.0], "a", 1, LOAD) in (0, 1)


def test_a_second_copy_where_the_queue_is_longer_than_a_load_is_worth() -> None:
    free = Told("two", free=50)

    def chosen(work: float, size: int = 40, load: float = LOAD, other: Told = free) -> int:
        return Choices().choose([has("one"), other], [work, 0.0], "a", size, load)

    assert chosen(LOAD_WEIGHT * LOAD) == 0
    assert chosen(1.1 * LOAD_WEIGHT * LOAD) == 1
    assert chosen(HOT, load=0.0) == 0, "not for a moment's sake"
    assert chosen(1e6, load=1e9) == 0, "a language model: nobody knows how long an answer takes"
    assert chosen(99.0, size=60) == 0, "there is no room"
    rested = Told("two", free=50, rested=10)
    assert chosen(1.1 * LOAD_WEIGHT * LOAD, size=60, other=rested) == 0, "what goes is wanted back"
    assert chosen(2.1 * LOAD_WEIGHT * LOAD, size=60, other=rested) == 1
    assert RESTED > 0, "what was used just now does not go"


def test_what_goes_to_a_second_one_is_remembered_until_it_says_so() -> None:
    clock = [0.0]
    choices = Choices(lambda: clock[0])
    told = [has("one"), Told("two", free=50), Told("three", free=40)]
    assert choices.choose(told, [9.0, 0.0, 0.0], "a", 40, LOAD) == 1
    assert choices.choose(told, [9.0, 0.4, 0.0], "a", 40, LOAD) == 1, "it is on its way there, and waits for no other"
    assert choices.choose(told, [9.0, 8.0, 0.0], "a", 40, LOAD) == 2, "and a third, when both have more to do"
    clock[0] = REMEMBERED
    assert choices.choose(told, [0.5, 0.0, 0.0], "a", 40, LOAD) == 0, "neither has said so"


def test_what_a_replica_has_to_do_is_what_it_told_or_as_much_from_each_gateway_as_from_this_one() -> None:
    assert Told("one", wait=5.0).work(age=1.0, asked=0.5) == 4.0
    assert Told("one", wait=5.0).work(age=9.0, asked=0.5) == 0.5
    assert Told("one", wait=1.0, gateways=8).work(age=0.0, asked=0.5) == 4.0
