"""How much a key may ask: requests and tokens in a minute, and requests at once. Each key has its own.

Requests are paid for as they come; tokens once they are counted, which is after they were computed, so that account may
go below nothing and is waited out. Unused leave is saved up for a minute and no longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from gateway.errors import RateLimited, TooManyInFlight
from gateway.tenants.keys import Key

MINUTE: Final = 60.0
WAIT: Final = 1.0  # seconds after which one of the requests at once may have ended: nobody knows


class Bucket:
    """`per_minute` 0 is no limit. `clock` is monotonic, in seconds."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def wait(self, least: float) -> float:
        """Seconds until it holds `least`; 0 if it does."""
        if not self.per_minute:
            return 0.0
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / MINUTE)
        self._at = now
        return max(0.0, (least - self._level) * MINUTE / self.per_minute)

    def take(self, amount: float) -> None:
        if self.per_minute:
            self._level -= amount


class Account:
    """One key's. Owned by the event loop."""

    def __init__(self, key: Key, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._requests = Bucket(key.requests_per_minute, clock)
        self._tokens = Bucket(key.tokens_per_minute, clock)
        self._most = key.concurrency
        self.in_flight = 0

    def use(self, key: Key) -> None:
        """Other limits from now on; one that is the same keeps what was taken of it."""
        self._most = key.concurrency
        if key.requests_per_minute != self._requests.per_minute:
            self._requests = Bucket(key.requests_per_minute, self._clock)
        if key.tokens_per_minute != self._tokens.per_minute:
            self._tokens = Bucket(key.tokens_per_minute, self._clock)

    def admit(self) -> None:
        """For every request. Raises RateLimited."""
        if wait := self._requests.wait(1.0):
            raise RateLimited(
                f"this key may send {self._requests.per_minute:,} requests a minute",
                retry_after=wait,
                limit=self._requests.per_minute,
                of="requests",
            )
        if wait := self._tokens.wait(1.0):
            raise RateLimited(
                f"this key may use {self._tokens.per_minute:,} tokens a minute",
                retry_after=wait,
                limit=self._tokens.per_minute,
                of="tokens",
            )
        self._requests.take(1.0)

    def enter(self) -> None:
        """For a request that will leave again. Raises TooManyInFlight."""
        if self._most and self.in_flight >= self._most:
            raise TooManyInFlight(
                f"this key may have {self._most:,} requests in flight", retry_after=WAIT, limit=self._most
            )
        self.in_flight += 1

    def leave(self) -> None:
        self.in_flight -= 1

    def charge(self, tokens: int) -> None:
        self._tokens.take(tokens)


class Accounts:
    """Of all keys. What a key has used is forgotten with it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, Account] = {}

    def of(self, key: Key) -> Account:
        account = self._accounts.get(key.id)
        if account is None:
            account = self._accounts[key.id] = Account(key, self._clock)
        return account

    def follow(self, keys: Collection[Key]) -> None:
        """The keys in force have changed."""
        known = {key.id: key for key in keys}
        self._accounts = {id: account for id, account in self._accounts.items() if id in known}
        for id, account in self._accounts.items():
            account.use(known[id])
