"""What waits, how much more may, and how long it takes: all by arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Overloaded
from gateway.host.backlog import LEAST_WAIT, MEMORY_SECONDS, UNMEASURED_WAIT, Backlog, Rate

MOST = 1000
arrivals = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x", "y"]), st.integers(1, 3000)), max_size=60
)


def has_room(backlog: Backlog, key: str = "m", flow: str = "") -> bool:
    try:
        backlog.refuse_if_full(key, flow)
    except Overloaded:
        return False
    return True


def test_one_queue_may_hold_as_much_as_it_leaves_free() -> None:
    backlog = Backlog(MOST)
    while has_room(backlog):
        backlog.add("m", "", 10)
    assert backlog.tokens == MOST / 2


def test_a_newcomer_finds_room_behind_any_number_of_floods() -> None:
    backlog = Backlog(MOST)
    for flood in ("one", "two", "three"):
        while has_room(backlog, flow=flood):
            backlog.add("m", flood, 1)
    assert backlog.tokens < MOST
    assert has_room(backlog, flow="newcomer")
    assert has_room(backlog, key="another model")


@given(arrivals)
def test_what_is_refused_has_as_much_waiting_as_there_is_room_left(arrivals: list[tuple[str, str, int]]) -> None:
    """And all together never wait for more than the bound and one request."""
    backlog = Backlog(MOST)
    largest = 0
    for key, flow, tokens in arrivals:
        if has_room(backlog, key, flow):
            backlog.add(key, flow, tokens)
            largest = max(largest, tokens)
        else:
            assert backlog.of(key, flow) >= MOST - backlog.tokens
        assert backlog.tokens <= MOST + largest


@given(arrivals)
def test_an_empty_queue_takes_a_request_of_any_size(arrivals: list[tuple[str, str, int]]) -> None:
    backlog = Backlog(1)
    for key, flow, tokens in arrivals:
        assert has_room(backlog, key, flow)
        backlog.add(key, flow, tokens)
        backlog.remove(key, flow, tokens)


def test_large_and_small_requests_are_refused_alike() -> None:
    """Room is asked for before anybody knows how large a request is, so a large one is not passed over for ever."""
    backlog = Backlog(MOST)
    backlog.add("m", "", 400)
    assert has_room(backlog)
    backlog.add("m", "", 100_000)
    assert not has_room(backlog)
    backlog.remove("m", "", 100_000)
    assert has_room(backlog)


def test_a_refusal_says_when_its_queue_will_have_been_computed() -> None:
    backlog = Backlog(MOST)
    backlog.measured("m", 500, 2.0)
    backlog.add("m", "", 800)
    with pytest.raises(Overloaded) as refused:
        backlog.refuse_if_full("m", "")
    assert refused.value.retry_after == pytest.approx(800 / 250)
    assert refused.value.details["queued"] == 800


def test_what_is_on_the_device_is_waited_for_too() -> None:
    backlog = Backlog(MOST)
    backlog.measured("m", 500, 2.0)
    backlog.add("m", "", 800)
    backlog.underway = 250
    assert backlog.wait("m", "") == pytest.approx(800 / 250 + 1)


def test_while_nothing_was_measured_a_guess_is_told() -> None:
    backlog = Backlog(10)
    backlog.add("m", "", 10)
    assert backlog.wait("m", "") == UNMEASURED_WAIT


def test_the_wait_is_never_told_as_nothing() -> None:
    backlog = Backlog(10)
    backlog.measured("m", 10**9, 1.0)
    backlog.add("m", "", 10)
    with pytest.raises(Overloaded) as refused:
        backlog.refuse_if_full("m", "")
    assert refused.value.retry_after == LEAST_WAIT


def test_a_wait_counts_what_others_compute_until_then_at_their_own_rates() -> None:
    """100 tokens of ours at 100 a second, as many of a model that is ten times slower, and the little a third has."""
    backlog = Backlog(MOST)
    for key, rate in (("ours", 100), ("slow", 10), ("small", 100)):
        backlog.measured(key, rate, 1.0)
    backlog.add("ours", "", 100)
    backlog.add("slow", "", 5000)
    backlog.add("small", "", 50)
    assert backlog.wait("ours", "") == pytest.approx(1 + 10 + 0.5)


def test_a_model_of_twice_the_weight_waits_for_half_as_much_of_the_others() -> None:
    backlog = Backlog(MOST)
    backlog.measured("ours", 100, 1.0)
    backlog.add("ours", "", 100, weight=2.0)
    backlog.add("theirs", "", 5000, weight=1.0)
    assert backlog.wait("ours", "") == pytest.approx(1 + 0.5)


def test_a_small_flow_does_not_wait_for_all_of_a_large_one_of_its_model() -> None:
    backlog = Backlog(MOST)
    backlog.measured("m", 100, 1.0)
    backlog.add("m", "bulk", 10_000)
    backlog.add("m", "query", 100)
    assert backlog.wait("m", "query") == pytest.approx(2.0)


def test_who_is_refused_with_nothing_waiting_is_told_when_everything_is_computed() -> None:
    backlog = Backlog(MOST)
    backlog.measured("m", 100, 1.0)
    backlog.add("m", "bulk", 10_000)
    with pytest.raises(Overloaded) as refused:
        backlog.refuse_if_full("another", "")
    assert refused.value.retry_after == pytest.approx(100.0)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.001, 1.0)), min_size=1, max_size=50))
def test_a_rate_lies_between_the_slowest_and_the_fastest_of_what_was_measured(calls: list[tuple[int, float]]) -> None:
    rate = Rate()
    for tokens, seconds in calls:
        rate.add(tokens, seconds)
    rates = [tokens / seconds for tokens, seconds in calls]
    assert min(rates) * 0.999 <= rate.value <= max(rates) * 1.001


def test_a_rate_follows_a_change_and_one_odd_call_does_not_move_it_far() -> None:
    rate = Rate()
    for _ in range(100):
        rate.add(100, 0.1)
    rate.add(1, 0.0001)  # tiny and fast
    assert rate.value == pytest.approx(1000, rel=0.01)
    for _ in range(int(3 * MEMORY_SECONDS / 0.1)):
        rate.add(200, 0.1)
    assert rate.value == pytest.approx(2000, rel=0.05)


def test_a_hold_is_counted_until_it_ends_and_ends_once() -> None:
    backlog = Backlog(MOST)
    hold = backlog.hold("m", "", 40)
    assert backlog.tokens == 40
    hold.end()
    assert backlog.tokens == 0
    backlog.add("m", "", 30)
    hold.end()
    assert backlog.tokens == 30


def test_models_that_are_gone_are_measured_no_more() -> None:
    backlog = Backlog(MOST)
    backlog.measured("gone", 1, 1.0)
    backlog.measured("here", 3, 1.0)
    backlog.forget(frozenset({"here"}))
    backlog.add("gone", "", 40)
    assert backlog.wait("gone", "") == pytest.approx(40 / backlog._overall.value)
