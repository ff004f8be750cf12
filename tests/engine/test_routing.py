"""Which replica a request goes to: the rules one by one, and what many choices come to."""

from __future__ import annotations

from collections import Counter

from gateway.engine.placement import Site
from gateway.engine.routing import PRESSED, REMEMBERED, Choices, Told, route

NAMES = ["one", "two", "three"]
IDLE = [0, 0, 0]
NONE = [0.0, 0.0, 0.0]


def site(
    index: int, *, up: bool = True, holds: bool = False, loaded: bool = False, free: int = 0, load: int = 0
) -> Site:
    return Site(index, up, holds or loaded, free, load, 0.0, loaded)


def test_who_has_it_loaded_before_who_loads_it_and_of_several_the_one_with_least_to_do() -> None:
    sites = [site(0, holds=True), site(1, loaded=True, load=9), site(2, loaded=True, load=8)]
    assert route(sites, NAMES, "d", 1) == 2
    assert route([*sites[:1], site(1, free=100), site(2, free=100)], NAMES, "d", 1) == 0


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
    assert route([site(0, up=False, loaded=True), site(1), site(2, up=False)], NAMES, "d", 1) == 1
    assert route([site(0, up=False), site(1, up=False, loaded=True), site(2, up=False)], NAMES, "d", 1) == 1


def test_choices_cover_what_has_not_been_told_yet() -> None:
    clock = [0.0]
    choices = Choices(lambda: clock[0])
    told = [Told(name, free=100) for name in NAMES]  # and none of them ever says more
    chosen = {digest: choices.choose(told, IDLE, NONE, digest, 25) for digest in "abcdefghijkl"}
    assert Counter(chosen.values()) == {0: 4, 1: 4, 2: 4}
    assert {digest: choices.choose(told, IDLE, NONE, digest, 25) for digest in chosen} == chosen
    clock[0] = REMEMBERED
    full = [Told(name, free=0) for name in NAMES]
    hashed = {digest: choices.choose(full, IDLE, NONE, digest, 25) for digest in chosen}
    assert hashed == {digest: route([site(i) for i in range(3)], NAMES, digest, 25) for digest in chosen}


def test_what_was_told_counts_once() -> None:
    choices = Choices(lambda: 0.0)
    assert choices.choose([Told("one", free=100)], [0], [0.0], "a", 60) == 0
    held = Told("one", held=frozenset("a"), loaded=frozenset("a"), free=40)
    two = Told("two", free=30)
    assert choices.choose([held, two], [0, 0], [0.0, 0.0], "b", 35) == 0  # 40 are free, not 40 less another 60


def test_a_choice_for_a_replica_that_went_is_forgotten() -> None:
    choices = Choices(lambda: 0.0)
    assert choices.choose([Told("one", free=9), Told("two", free=1)], [0, 0], [0.0, 0.0], "a", 1) == 0
    assert choices.choose([Told("two", free=1), Told("three", free=5)], [0, 0], [0.0, 0.0], "a", 1) == 1


def test_a_second_copy_where_its_texts_have_waited_and_another_has_time_and_room() -> None:
    clock = [0.0]
    hot = Told("one", held=frozenset("a"), loaded=frozenset("a"), wait=1.0)
    free = Told("two", free=50)

    def after(seconds: float, size: int, own: float) -> int:
        choices = Choices(lambda: clock[0])
        first = choices.choose([hot, free], [100, 0], [own, 0.0], "a", size)
        clock[0] += seconds
        assert first == 0
        return choices.choose([hot, free], [100, 0], [own, 0.0], "a", size)

    assert after(PRESSED, 40, own=1.0) == 1
    assert after(PRESSED / 2, 40, own=1.0) == 0, "not for a moment's sake"
    assert after(PRESSED, 60, own=1.0) == 0, "there is no room"
    assert after(PRESSED, 40, own=0.1) == 0, "another model makes it wait"


def test_one_more_copy_at_a_time() -> None:
    clock = [0.0]
    choices = Choices(lambda: clock[0])
    told = [
        Told("one", held=frozenset("a"), loaded=frozenset("a"), wait=1.0),
        Told("two", free=50),
        Told("three", free=50),
    ]
    loads, own = [100, 0, 0], [1.0, 0.0, 0.0]
    assert choices.choose(told, loads, own, "a", 40) == 0
    clock[0] = PRESSED
    other = choices.choose(told, loads, own, "a", 40)
    assert other in (1, 2)
    assert [choices.choose(told, loads, own, "a", 40) for _ in range(5)] == [0] * 5, "until it is loaded there"
