"""What a key may ask in a minute and at once, by a clock that the tests turn."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RateLimited, TooManyInFlight
from gateway.tenants.keys import Key
from gateway.tenants.limits import MINUTE, Account, Accounts, Bucket


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key(id: str = "0" * 12, **limits: int) -> Key:
    return Key(id=id, name="a", tenant="a", sha256="0" * 64, created=0.0, **limits)  # type: ignore[arg-type]  # limits alone


def wait_of(account: Account) -> tuple[str, float | None]:
    with pytest.raises(RateLimited) as refused:
        account.admit()
    return refused.value.details["of"], refused.value.retry_after


def test_so_many_requests_in_a_minute_and_the_next_when_there_is_leave_again(clock: Clock) -> None:
    account = Account(key(requests_per_minute=60), clock)
    for _ in range(60):
        account.admit()
    assert wait_of(account) == ("requests", 1.0)
    clock.now += 0.25
    assert wait_of(account) == ("requests", 0.75)
    clock.now += 0.75
    account.admit()
    assert wait_of(account) == ("requests", 1.0)


def test_who_waits_as_long_as_it_is_told_is_admitted(clock: Clock) -> None:
    for per_minute in (1, 7, 59, 1000):
        account = Account(key(requests_per_minute=per_minute), clock)
        for _ in range(per_minute):
            account.admit()
        _, wait = wait_of(account)
        assert wait is not None
        clock.now += wait + 1e-6
        account.admit()


def test_leave_is_saved_up_for_a_minute_and_no_longer(clock: Clock) -> None:
    account = Account(key(requests_per_minute=3), clock)
    clock.now += 100 * MINUTE
    for _ in range(3):
        account.admit()
    assert wait_of(account) == ("requests", 20.0)


def test_a_refused_request_costs_nothing(clock: Clock) -> None:
    account = Account(key(requests_per_minute=1), clock)
    account.admit()
    for _ in range(100):
        wait_of(account)
    clock.now += MINUTE
    account.admit()


def test_tokens_are_charged_after_the_fact_and_what_was_too_much_is_waited_out(clock: Clock) -> None:
    account = Account(key(tokens_per_minute=600), clock)
    account.admit()
    account.charge(599)
    account.admit()
    account.charge(1200)  # 1199 more than there were
    assert wait_of(account) == ("tokens", 120.0)
    clock.now += 120.0
    account.admit()


def test_who_has_used_its_tokens_does_not_lose_requests_by_asking(clock: Clock) -> None:
    account = Account(key(tokens_per_minute=60, requests_per_minute=2), clock)
    account.admit()
    account.charge(60)
    wait_of(account)
    clock.now += 1.0
    account.admit()
    assert wait_of(account)[0] == "requests"


def test_so_many_at_once_and_the_next_when_one_has_left(clock: Clock) -> None:
    account = Account(key(concurrency=2), clock)
    account.enter()
    account.enter()
    with pytest.raises(TooManyInFlight) as refused:
        account.enter()
    assert (refused.value.retry_after, refused.value.details) == (1.0, {"limit": 2})
    account.leave()
    account.enter()


def test_without_limits_nothing_is_refused(clock: Clock) -> None:
    account = Account(key(), clock)
    for _ in range(1000):
        account.admit()
        account.enter()
        account.charge(10**9)


def test_each_key_has_its_own_account_and_what_it_used_is_forgotten_with_it(clock: Clock) -> None:
    accounts = Accounts(clock)
    one, other = key("1" * 12, concurrency=1), key("2" * 12, concurrency=1)
    accounts.of(one).enter()
    accounts.of(other).enter()
    assert accounts.of(one).in_flight == 1
    accounts.follow([other])
    accounts.follow([one, other])
    assert (accounts.of(one).in_flight, accounts.of(other).in_flight) == (0, 1)


def test_a_changed_limit_counts_at_once_and_an_unchanged_one_keeps_what_was_taken(clock: Clock) -> None:
    accounts, old = Accounts(clock), key(requests_per_minute=1, tokens_per_minute=60, concurrency=1)
    account = accounts.of(old)
    account.admit()
    account.enter()
    account.charge(120)
    accounts.follow([msgspec.structs.replace(old, requests_per_minute=5, concurrency=2)])
    account.enter()
    assert wait_of(account)[0] == "tokens"
    accounts.follow([msgspec.structs.replace(old, requests_per_minute=5, tokens_per_minute=0)])
    account.admit()


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.floats(0, 200, allow_nan=False), st.integers(0, 20_000)), max_size=50),
)
def test_over_any_time_no_more_is_taken_than_was_due_and_one_request(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    clock, taken, largest = Clock(), 0, 0
    bucket = Bucket(per_minute, clock)
    for seconds, amount in steps:
        clock.now += seconds
        if not bucket.wait(1.0):
            bucket.take(amount)
            taken, largest = taken + amount, max(largest, amount)
    assert taken <= per_minute * (1 + (clock.now - 100.0) / MINUTE) + largest + 1e-3
